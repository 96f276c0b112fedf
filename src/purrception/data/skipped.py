"""What could not be taken of a set of images: counted, told in a line, listed in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.data.decoding import UnreadableImageError
from purrception.storage import read_limited, reading, write_file
from purrception.utils.errors import InputError

REPORT_FILE = "report.jsonl"
"""A line for every image that was skipped, and for every other file that was passed over."""
KINDS = ("image", "file")
LARGEST_REPORT = 2**30


@dataclass(frozen=True, order=True)
class Skipped:
    """One image or file that was not taken."""

    name: str
    reason: str
    kind: str = "image"
    """``image``, or ``file`` for what lies among images and is none that can be opened."""

    @classmethod
    def of(cls, error: UnreadableImageError) -> Skipped:
        """An image that cannot be read."""
        return cls(error.name, error.reason)


class NothingReadableError(InputError):
    """There are images, and none of them can be read."""

    def __init__(self, what: str, first: Skipped) -> None:
        super().__init__(f"none of {what} can be read; the first, {first.name}: {first.reason}")


def report_text(skipped: Iterable[Skipped]) -> str:
    """Lines of JSON, ``{"image" or "file": name, "reason": reason}``."""
    return "".join(json.dumps({one.kind: one.name, "reason": one.reason}) + "\n" for one in skipped)


def write_report(folder: Path, skipped: Iterable[Skipped]) -> None:
    """Write the report of ``folder``; no file where nothing was skipped."""
    if text := report_text(skipped):
        write_file(folder / REPORT_FILE, text)


def describe_report(folder: Path) -> str:
    """What the report in ``folder`` says, in a line that names it; empty where nothing was skipped.

    Raises:
        InputError: it is damaged.
    """
    file = folder / REPORT_FILE
    if not file.is_file():
        return ""
    content = read_limited(file, LARGEST_REPORT, "a list of skipped images")
    with reading("a list of skipped images", file, "remove it"):
        skipped = [_entry(json.loads(line)) for line in content.decode().splitlines()]
    text = describe(skipped)
    return text and f"{text}; the list: {file}"


def _entry(values: object) -> Skipped:
    kinds = [kind for kind in KINDS if isinstance(values, dict) and isinstance(values.get(kind), str)]
    if not isinstance(values, dict) or not kinds or not isinstance(values.get("reason"), str):
        raise ValueError("a line of it names no image or file, with the reason")
    return Skipped(values[kinds[0]], values["reason"], kinds[0])


def describe(skipped: Sequence[Skipped]) -> str:
    """How many images and other files, with an example of each, in a line; empty where there are none."""
    parts = []
    for kind in KINDS:
        if some := [one for one in skipped if one.kind == kind]:
            words = "skipped" if kind == "image" else f"other file{'s'[: len(some) - 1]} passed over"
            parts.append(f"{len(some)} {words}, such as {some[0].name} ({some[0].reason})")
    return "; ".join(parts).encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8


def passed_over(source: object) -> Sequence[Skipped]:
    """Files that a source or set of images found and did not take; not every one has any."""
    found: Sequence[Skipped] = getattr(source, "passed_over", ())
    return found
