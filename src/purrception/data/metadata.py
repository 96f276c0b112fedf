"""Labels beside the images of a folder: ``metadata.csv`` or ``metadata.jsonl``, as Hugging Face's imagefolder."""

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
"""Bytes of the file, and characters of a line."""
MISSING_IN_CSV = frozenset(
    {
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    }
)
"""What pandas takes for nothing, and so imagefolder."""


def find_metadata(root: Path) -> Path | None:
    """The metadata file at the top of a folder.

    Raises:
        InputError: there are several, or it is one that only ``datasets`` reads.
    """
    found = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise InputError(
            f"{root} holds {found[0].name} and {found[1].name}: keep the one that describes the images"
        )
    if found and found[0].suffix == ".parquet":
        raise InputError(f"{found[0]} is read by Hugging Face's datasets only: name the folder as hub:{root}")
    return found[0] if found else None


def read_metadata(file: Path) -> dict[str, Label] | None:
    """Label by path below the file's folder, with / between parts; ``None`` without a column of labels.

    Raises:
        InputError: it cannot be read, has no ``file_name``, names one file twice or a file outside, or holds
            a label that is none; see :func:`read_label`.
    """
    with reading("metadata", file, "expected is UTF-8, a row for each image"):
        rows = list(_rows(file))
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


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Of each row, what is asked for here; captions and the like are not kept."""
    for row in _whole_rows(file):
        yield {name: row[name] for name in (FILE_NAME, *LABEL_NAMES) if name in row}


def _whole_rows(file: Path) -> Iterator[dict[Any, Any]]:
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
                raise ValueError(f"{line.strip()[:40]!r} is no object")
            yield row


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line of it has more than {LONGEST_LINE} characters")
        yield line
