"""Two results compared: what they differ in, and which is better where that can be said."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purrception.evaluation.manifest import current_names, flattened
from purrception.evaluation.npz import read_npz
from purrception.evaluation.report import COLUMNS, Row, metrics_table
from purrception.storage import read_json, reading
from purrception.storage.report import REPORT_JSON
from purrception.utils.errors import InputError
from purrception.utils.text import table

ENDS = ("frechet_low", "frechet_high")

RANKED_BY = {
    "reference.protocol": "protocol",
    "reference.content": "reference",
    "count": "count of images",
    "features.name": "features",
    "features.fingerprint": "weights of the features",
}
"""What two results must have in common for their distances to be comparable."""


@dataclass(frozen=True)
class Result:
    """A report read back, or the manifest in an ``.npz``, which has no rows."""

    manifest: dict[str, Any]
    rows: list[Row]

    def check(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            ValueError: a row or the manifest is not what ``evaluate`` writes.
        """
        for row in self.rows:
            for name in (f"{column}{end}" for column in COLUMNS for end in ("", "_low", "_high", "_spread")):
                value = row.get(name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise ValueError(f"{name} is no number; given {str(value)[:100]}")
            ends = [row.get(name) for name in ENDS]
            distances = [row["frechet"], *(end for end in ends if end is not None)]
            if not isinstance(row["images"], str) or (None in ends) != (ends == [None, None]):
                raise ValueError("a row of it has no name of its images, or an interval of one end")
            if not all(map(math.isfinite, distances)):
                raise ValueError("a distance of it is not finite")
        metrics_table(self.rows)
        self.conditions()

    def conditions(self) -> dict[str, Any]:
        """The manifest's entries; sampling settings under today's names, whatever version wrote them."""
        manifest = {**self.manifest}
        if isinstance(images := manifest.get("images"), dict) and isinstance(images.get("sampling"), dict):
            manifest["images"] = {**images, "sampling": current_names(images["sampling"])}
        return flattened(manifest)


def read_result(path: Path) -> Result:
    """A report's folder, its JSON, or an ``.npz`` that ``evaluate`` wrote.

    Raises:
        InputError: it holds no manifest, or is damaged.
    """
    if path.suffix == ".npz":
        _, content = read_npz(path, ["manifest"])
        if "manifest" not in content:
            raise InputError(
                f"{path} holds no manifest: only files that `purrception evaluate` wrote can be compared"
            )
        with reading("an .npz with a manifest", path):
            result = Result(json.loads(str(content["manifest"])), [])
            result.check()
            return result
    file = path / REPORT_JSON if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no result at {path}: give the folder of a report, its {REPORT_JSON}, or an .npz")
    what = "a report of `purrception evaluate` with a manifest"
    result = read_json(file, Result, what)
    with reading(what, file):
        result.check()
    return result


def compare_results(a: Path, b: Path, *, anyway: bool = False) -> str:
    """What two results differ in, and their rows ranked by distance.

    Args:
        a: a result; see :func:`read_result`.
        b: another.
        anyway: rank them, with a warning, even where their distances do not compare.

    Raises:
        InputError: they differ in protocol, reference, count or features, and ``anyway`` is not set; the message
            says in what.
    """
    one, other = read_result(a), read_result(b)
    left, right = one.conditions(), other.conditions()
    different = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    lines = [f"A: {a}", f"B: {b}", ""]
    if different:
        rows = [[key, _short(left.get(key)), _short(right.get(key))] for key in different]
        lines.append(table(["differs in", "A", "B"], rows))
    else:
        lines.append("The manifests are equal.")
    if not (one.rows and other.rows):
        return "\n".join(lines)
    obstacles = [title for key, title in RANKED_BY.items() if key in different]
    if obstacles and not anyway:
        raise InputError(
            "\n".join(lines)
            + f"\n\nnot ranked: the two differ in {', '.join(obstacles)}, so that their distances do not compare; "
            "evaluate both in the same way, or rank them nevertheless with --anyway"
        )
    if obstacles:
        lines += ["", f"WARNING: the two differ in {', '.join(obstacles)}: their distances do not compare."]
    return "\n".join([*lines, "", *_ranked(one, other)])


def _ranked(one: Result, other: Result) -> list[str]:
    rows = [
        {**row, "images": f"{name}: {row['images']}"} for name, it in (("A", one), ("B", other)) for row in it.rows
    ]
    rows.sort(key=lambda row: float(row["frechet"]))
    best = {name: next(row for row in rows if row["images"].startswith(name)) for name in "AB"}
    near, far = sorted(best.values(), key=lambda row: float(row["frechet"]))
    lines = [metrics_table(rows), ""]
    if near["frechet"] == far["frechet"]:
        return [*lines, "Their best rows are at the same distance."]
    winner = near["images"][0]
    nearer = f"{winner}'s best row is nearer by {far['frechet'] - near['frechet']:.4g}"
    high, low = near.get("frechet_high"), far.get("frechet_low")
    if high is None or low is None:
        return [*lines, f"{nearer}; without intervals nobody knows whether that is chance."]
    return [*lines, f"{nearer}; their intervals {'lie apart' if high < low else 'overlap: it may be chance'}."]


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, list) else "–" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
