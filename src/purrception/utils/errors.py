"""The one error that is written for the person at the keyboard, and the errors of the system in plain words."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message says what was given, what is accepted and what to do. The command line prints it as one line and
    exits with status 2.
    """


def unknown_name(kind: str, given: str, known: Iterable[str], others: str = "") -> InputError:
    """The error for an unknown name; it suggests the closest known one.

    Args:
        kind: what the name stands for, such as ``"solver"``.
        given: the name as it was given.
        known: the names that are accepted.
        others: what is accepted besides, for the end of the message.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(names) if len(names) <= 24 else f"{len(names)} names, see --help"
    return InputError(f"unknown {kind} {given!r}: {hint}known: {listed}{others and f'; {others}'}")


@contextlib.contextmanager
def resumable(how: str) -> Iterator[None]:
    """A block whose work is kept when Ctrl-C ends it; the command line then says ``how`` to go on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.add_note(how)
        raise


def in_words(error: BaseException) -> str:
    """An error's message in one line; without the number of a system error: ``/x: No such file or directory``."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        files = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
        said = ": ".join([*map(os.fsdecode, files), error.strerror])
    return " ".join(said.split())
