"""What could not be taken of a set of images: counted, told in a line, listed in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.data.decoding import UnreadableImageError
from purrception.errors import InputError
from purrception.storage import write_file

REPORT_FILE = "report.jsonl"
"""A line for every image that was skipped, and for every other file that was passed over."""
KINDS = ("image", "file")


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
    """What the report in ``folder`` says, in a line that names it; empty where nothing was skipped."""
    file = folder / REPORT_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    entries = [json.loads(line) for line in lines]
    text = describe(
        [Skipped(entry[kind], entry["reason"], kind) for entry in entries for kind in KINDS if kind in entry]
    )
    return text and f"{text}; the list: {file}"


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
