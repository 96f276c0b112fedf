"""Images that are skipped and files that are ignored: counted, described in a line, listed in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.data.decoding import UnreadableImageError
from purrception.storage import read_limited, reading, write_file
from purrception.utils.errors import InputError

REPORT_FILE = "report.jsonl"
"""The file with a line for every image that is skipped and for every other file that is ignored."""
KINDS = ("image", "file")
LARGEST_REPORT = 2**30


@dataclass(frozen=True, order=True)
class Skipped:
    """One image or file that is not used."""

    name: str
    reason: str
    kind: str = "image"
    """``image``, or ``file`` for a file among the images that is not one."""

    @classmethod
    def of(cls, error: UnreadableImageError) -> Skipped:
        """The image that an error is about."""
        return cls(error.name, error.reason)


class NothingReadableError(InputError):
    """There are images, but none of them can be read."""

    def __init__(self, what: str, first: Skipped) -> None:
        super().__init__(f"none of {what} can be read; the first, {first.name}: {first.reason}")


def report_text(skipped: Iterable[Skipped]) -> str:
    """A line of JSON for each, ``{"image" or "file": name, "reason": reason}``."""
    return "".join(json.dumps({one.kind: one.name, "reason": one.reason}) + "\n" for one in skipped)


def write_report(folder: Path, skipped: Iterable[Skipped]) -> None:
    """Write the report to ``folder``; no file where nothing is skipped."""
    if text := report_text(skipped):
        write_file(folder / REPORT_FILE, text)


def describe_report(folder: Path) -> str:
    """A line that sums up the report in ``folder`` and names it; empty where nothing is skipped.

    Raises:
        InputError: the report is damaged.
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
        raise ValueError("a line lacks the name of an image or file, or the reason")
    return Skipped(values[kinds[0]], values["reason"], kinds[0])


def describe(skipped: Sequence[Skipped]) -> str:
    """How many images are skipped and files ignored, with an example of each, in a line; may be empty."""
    parts = []
    for kind in KINDS:
        if some := [one for one in skipped if one.kind == kind]:
            words = "skipped" if kind == "image" else f"other file{'s'[: len(some) - 1]} ignored"
            parts.append(f"{len(some)} {words}, such as {some[0].name} ({some[0].reason})")
    return "; ".join(parts).encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8


def ignored_files(source: object) -> Sequence[Skipped]:
    """The files that a source or set of images found and does not use."""
    found: Sequence[Skipped] = getattr(source, "ignored_files", ())
    return found
