"""The rows of a comparison on disk, one for each training and point of measurement."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from purrception.evaluation.manifest import current_names
from purrception.storage import read_json_lines, reading
from purrception.utils.errors import InputError

ROWS_FILE = "rows.jsonl"
Rows = list[dict[str, Any]]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Sampling(TypedDict):
    solver: str
    guidance_scale: Finite
    temperature: float | str


class _Row(TypedDict):
    """What every report needs of a row; newer rows hold more."""

    entry: str
    seed: int
    step: Annotated[int, Field(ge=1)]
    seconds: Positive
    flops: Positive
    parameters: int
    nfe: int
    sampling: _Sampling
    frechet: Finite
    bits_per_code: Finite
    precision: Finite
    recall: Finite
    recognised: Finite
    cross_entropy: Finite | None
    mean_error: Finite | None


def read_rows(file: Path, entries: Container[str] | None = None) -> Rows:
    """The rows of a comparison so far; a line that a kill has cut off is left out.

    Args:
        file: ``rows.jsonl``.
        entries: what a row may be of; by default, anything.

    Raises:
        InputError: a row lacks a figure, or is of another comparison.
    """
    rows = read_json_lines(file)
    for row in rows:
        named = f"entry {row.get('entry')!r}, seed {row.get('seed')!r}, step {row['step']}"[:200]
        remedy = f"remove that line ({named}) and the folder of that training, and start the command again"
        with reading("a file of rows", file, remedy):
            for part in filter(None, (row, row.get("tuned"))):  # older rows give some settings other names
                part["sampling"] = current_names(part["sampling"])
            TypeAdapter(_Row).validate_python(row, strict=True)
        if entries is not None and row["entry"] not in entries:
            raise InputError(f"{file} holds a row of another comparison ({named}): {remedy}")
    return rows
