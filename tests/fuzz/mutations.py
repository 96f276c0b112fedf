"""Damage to files, seeded; and what every reader keeps to: an answer or one line, soon, in little memory."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from purrception.utils.errors import InputError

SECONDS, MEGABYTES = 10, 1000
MUTATIONS = int(os.environ.get("FUZZ", "0"))
QUICK, SLOW = MUTATIONS or 80, MUTATIONS or 50
"""For each reader in CI; those that build a network take longer. ``FUZZ=2000`` looks harder."""
NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"255",
    b"65536",
    b"1000000",
    b"2147483648",
    b"9223372036854775808",
    b"1e308",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1.5",
    b'"1"',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"9" * 5000,
]
WORDS = [
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"../../up"',
    b'"/abs/olute"',
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 3000,
    b"&a [*a, *a]",
    b"!!int abc",
    b"!!python/object:os.system x",
    b"2020-99-99",
    b"\xff\xfe",
    b"\x00",
    b"\xe2\x82",
]


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The content with one thing wrong: a bit, a byte, a piece lost, doubled or foreign, a number, a word."""
    kind = dice.choice(["bit", "byte", "cut", "lose", "double", "insert", "number", "number", "word", "empty"])
    if not content or kind == "empty":
        return b"" if dice.random() < 0.2 else dice.randbytes(dice.randrange(64))
    at = dice.randrange(len(content))
    to = min(len(content), at + 1 + int(2 ** (12 * dice.random())))
    if kind in ("bit", "byte"):
        changed = bytearray(content)
        changed[at] = changed[at] ^ (1 << dice.randrange(8)) if kind == "bit" else dice.randrange(256)
        return bytes(changed)
    if kind == "cut":
        return content[:at]
    if kind == "lose":
        return content[:at] + content[to:]
    if kind == "double":
        return content[:to] + content[at:]
    if kind == "insert":
        return content[:at] + dice.randbytes(to - at) + content[at:]
    if kind == "word":
        return content[:at] + dice.choice(WORDS) + content[to if dice.random() < 0.5 else at :]
    numbers = list(NUMBER.finditer(content))
    if not numbers:
        return content[:at]
    found = dice.choice(numbers)
    return content[: found.start()] + dice.choice(NUMBERS) + content[found.end() :]


def hold(read: Callable[[Path], object], path: Path, content: bytes) -> InputError | None:
    """Write the content to ``path`` and read it: the one line that refuses it, or none where it is taken.

    Anything else that is raised, a hang and a great deal of memory fail the test; the content is in the message.
    """
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        read(path)
        return None
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError(f"{error!r} has several lines") from error
        return error
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}\nreading {content[:2000]!r}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        assert grown < MEGABYTES, f"{grown} megabytes more, reading {content[:2000]!r}"


def fuzz(
    read: Callable[[Path], object],
    path: Path,
    count: int,
    *,
    noticed: bool = False,
    after: Callable[[], None] = lambda: None,
) -> int:
    """Read ``path`` under ``count`` mutations; how many were refused.

    Args:
        read: the reader.
        path: a good file, which it takes; put back in the end.
        count: of mutations.
        noticed: whether every one that changes the file must be refused.
        after: called when the mutation is on the disk, before it is read.
    """
    good = path.read_bytes()
    assert hold(read, path, good) is None
    dice, refused = random.Random(f"{path.name} {count > QUICK}"), 0

    def prepared(where: Path) -> object:
        after()
        return read(where)

    for _ in range(count):
        content = mutated(good, dice)
        error = hold(prepared, path, content)
        refused += error is not None
        assert error is not None or not noticed or content == good, f"taken in silence: {content[:500]!r}"
    path.write_bytes(good)
    after()
    print(f"{path.name}: {refused} of {count} refused")
    return refused


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"still reading after {SECONDS} s")
