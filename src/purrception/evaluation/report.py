"""The report of an evaluation: Markdown and JSON, with manifest, floors and warnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purrception.evaluation.manifest import flattened
from purrception.evaluation.metrics.per_class import ClassMetrics
from purrception.evaluation.references import PROTOCOLS, UNKNOWN_COUNT
from purrception.storage import write_file
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN, REPORT_PICTURE
from purrception.utils.text import table

WORST_SHOWN = 10

Row = dict[str, Any]


COLUMNS = {
    "guidance": ("guidance", "{guidance:g}"),
    "nfe": ("NFE", "{nfe}"),
    "count": ("count", "{count}"),
    "recognised": ("recognised", "{recognised:.1%}"),
    "frechet": ("Fréchet distance (95 %)", "{frechet:.3f}"),
    "times_floor": ("times the floor", "{times_floor:.2f}"),
    "spatial_frechet": ("sFID", "{spatial_frechet:.3f}"),
    "kid": ("KID", "{kid:.4g} ± {kid_spread:.2g}"),
    "inception_score": ("IS", "{inception_score:.4g} ± {inception_score_spread:.2g}"),
    "precision": ("precision", "{precision:.3f}"),
    "recall": ("recall", "{recall:.3f}"),
    "density": ("density", "{density:.3f}"),
    "coverage": ("coverage", "{coverage:.3f}"),
    "codes_used": ("codes used", "{codes_used:.1%}"),
    "perplexity": ("perplexity", "{perplexity:.1f}"),
}
"""Title and format of each column, by the metric that a row must have to fill it."""


def metrics_table(rows: list[Row], first: str = "images") -> str:
    """Rows as Markdown; columns that no row has anything for are left out."""
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    cells = [[row["images"], *(_cell(row, key) for key in shown)] for row in rows]
    return table([first, *(COLUMNS[key][0] for key in shown)], cells)


def _cell(row: Row, key: str) -> str:
    if row.get(key) is None:
        return "–"
    interval = " ({frechet_low:.3f} to {frechet_high:.3f})"
    has_interval = key == "frechet" and row.get("frechet_low") is not None
    return (COLUMNS[key][1] + interval * has_interval).format_map(row)


@dataclass(frozen=True)
class Evaluation:
    """Metrics with everything that they depend on."""

    manifest: dict[str, Any]
    """See :func:`purrception.evaluation.manifest.build_manifest`."""
    classifier_accuracy: float | None
    """The classifier's accuracy on the reference; none without classes."""
    rows: tuple[Row, ...]
    """One of each set of images."""
    floors: tuple[Row, ...]
    """Rows of real images: those that the reference does not hold, where there are any; then halves of it."""
    warnings: tuple[str, ...]
    classes: tuple[ClassMetrics, ...]
    """Each class of the set nearest to the reference, the worst first."""

    @property
    def frechet_floor(self) -> float | None:
        """The distance between real images at the same count, or as near to it as there are images."""
        return self.floors[0]["frechet"] if self.floors else None

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "manifest": self.manifest,
            "num": self.manifest["count"],
            "frechet_floor": self.frechet_floor,
            "classifier_accuracy": self.classifier_accuracy,
            "rows": list(self.rows),
            "floors": list(self.floors),
            "warnings": list(self.warnings),
            "classes": [one.plain() for one in self.classes],
        }

    def markdown(self) -> str:
        """The report as text."""
        reference, features = self.manifest["reference"], self.manifest["features"]
        protocol = reference["protocol"]
        told = reference["count"] < UNKNOWN_COUNT
        count = reference["count"] if told else "a count that the file does not tell"
        lines = [
            "# Evaluation",
            "",
            f"Protocol `{protocol}` ({PROTOCOLS[protocol]}): {reference['title']}, {count} "
            f"images. {features['name']} features of {features['dimension']} dimensions.",
            "",
        ]
        if self.classifier_accuracy is not None:
            lines += [f"Classifier accuracy on the real reference images: {self.classifier_accuracy:.1%}.", ""]
        lines += [part for warning in self.warnings for part in (f"**Note.** {warning}", "")]
        rows = [self._with_floor(row) for row in (*self.floors, *self.rows)]
        lines += [metrics_table(rows), ""]
        if self.floors:
            lines += [
                "Floors are distances between real images alone, at the count in their row: what a perfect model "
                "would reach. In brackets, where the mean over repetitions with other images lies with "
                "95 % confidence (bootstrap); two of these distances differ by chance by up to √2 times half the "
                "width.",
                "",
            ]
        if parts := sorted({row["inception_score_part"] for row in rows if row.get("inception_score_part")}):
            lines += [
                "IS depends on the number of images in a part, over which it is averaged: here "
                f"{' and '.join(map(str, parts))}. Published scores are of 5000.",
                "",
            ]
        lines += [*self._classes(), f"![Distances, and the worst classes]({REPORT_PICTURE})", ""]
        manifest = [[key, _short(value)] for key, value in flattened(self.manifest).items()]
        lines += ["## Manifest", "", table(["what", "value"], manifest)]
        return "\n".join(lines) + "\n"

    def _with_floor(self, row: Row) -> Row:
        floor = self.frechet_floor
        return {**row, "times_floor": row["frechet"] / floor} if floor else row

    def _classes(self) -> list[str]:
        if not self.classes:
            return []
        shown = self.classes[:WORST_SHOWN]
        rows: list[Row] = [
            {"images": f"{one.name}{f' (taken for {one.mistaken_for})' * bool(one.mistaken_for)}", **one.metrics}
            for one in shown
        ]
        for row in rows:  # an Inception score within one class means nothing
            row["inception_score"] = None
        return [
            f"## Class by class, the worst by KID first ({len(shown)} of {len(self.classes)})",
            "",
            metrics_table(rows, "class"),
            "",
        ]

    def write(self, folder: Path) -> None:
        """Markdown and JSON, into a folder, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / REPORT_JSON, json.dumps(self.plain(), indent=2))
        write_file(folder / REPORT_MARKDOWN, self.markdown())


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)
