"""Labels beside the images of a folder: ``metadata.csv`` or ``.jsonl``, as in Hugging Face's imagefolder."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from purrception.data.labels import LABEL_NAMES, Label, read_label
from purrception.storage import reading
from purrception.utils.errors import InputError
from purrception.utils.folders import check_name

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
LARGEST_METADATA, LONGEST_LINE = 2**30, 2**20
"""The largest file, in bytes, and the longest line, in characters."""
MISSING_IN_CSV = (
    {"nan", "NaN", "-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
    | {"NA", "<NA>", "#NA", "N/A", "n/a", "#N/A", "#N/A N/A"}
    | {"null", "NULL", "None"}
)
"""Text that pandas, and therefore imagefolder, reads as a missing value."""


def find_metadata(root: Path) -> Path | None:
    """The metadata file at the top of a folder.

    Raises:
        InputError: there are several, or only ``datasets`` can read it.
    """
    found = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise InputError(
            f"{root} holds {found[0].name} and {found[1].name}: keep only the one that describes the images"
        )
    if found and found[0].suffix == ".parquet":
        raise InputError(f"{found[0]} can be read only by Hugging Face's datasets: give the folder as hub:{root}")
    return found[0] if found else None


def read_metadata(file: Path) -> dict[str, Label] | None:
    """The label of each path, relative to the file's folder with / as separator; ``None`` without labels.

    Raises:
        InputError: the file cannot be read, lacks a ``file_name``, names a file twice or one outside the folder,
            or has an invalid label; see :func:`read_label`.
    """
    with reading("metadata", file, "expected is UTF-8 with a row for each image"):
        needed = (FILE_NAME, *LABEL_NAMES)  # not captions and the like
        rows = [{name: row[name] for name in needed if name in row} for row in _rows(file)]
    column = next((name for name in LABEL_NAMES if any(name in row for row in rows)), None)
    labels: dict[str, Label] = {}
    for number, row in enumerate(rows, start=1):
        path = row.get(FILE_NAME)
        if not isinstance(path, str) or not path:
            raise InputError(
                f"row {number} of {file} has no {FILE_NAME}: name an image in each, or remove the file"
            )
        check_name(path)
        path = posixpath.normpath(path)
        if path.startswith(("/", "..")) or "://" in path:
            raise InputError(f"row {number} of {file} names {row[FILE_NAME]!r}, which lies outside its folder")
        if path in labels:
            raise InputError(f"{file} names {path!r} twice: keep one of the rows")
        labels[path] = read_label(row.get(column), f"{file}: {path}") if column else None
    return labels if column else None


def _rows(file: Path) -> Iterator[dict[Any, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        if file.stat().st_size > LARGEST_METADATA:
            raise ValueError(f"it has {file.stat().st_size} bytes, and metadata has at most {LARGEST_METADATA}")
        if file.suffix == ".csv":
            for row in csv.DictReader(_lines(stream)):
                yield {name: None if value in MISSING_IN_CSV else value for name, value in row.items() if name}
            return
        for line in filter(str.strip, _lines(stream)):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line.strip()[:40]!r} is not a JSON object")
            yield row


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line has more than {LONGEST_LINE} characters")
        yield line
