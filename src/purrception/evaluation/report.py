"""The report of an evaluation: Markdown and JSON, with manifest, floors and warnings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from purrception.evaluation.manifest import flattened
from purrception.evaluation.metrics.held_out import GeneralisationGap
from purrception.evaluation.metrics.intervals import share_interval
from purrception.evaluation.metrics.parts import PartRecognised
from purrception.evaluation.metrics.per_class import ClassMetrics
from purrception.evaluation.references import PROTOCOLS, UNKNOWN_COUNT
from purrception.storage import write_file
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN, REPORT_PICTURE
from purrception.utils.text import table

WORST_SHOWN = 10

Row = dict[str, Any]


COLUMNS = {
    "guidance": ("guidance", "g"),
    "nfe": ("NFE", ""),
    "count": ("count", ""),
    "recognised": ("recognised", ".1%"),
    "frechet": ("Fréchet distance", ".3f"),
    "times_floor": ("times the floor", ".2f"),
    "spatial_frechet": ("sFID", ".3f"),
    "kid": ("KID", ".4g"),
    "inception_score": ("IS", ".4g"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "density": ("density", ".3f"),
    "coverage": ("coverage", ".3f"),
    "codes_used": ("codes used", ".1%"),
    "perplexity": ("perplexity", ".1f"),
}
"""Title and format of each column, by the metric that a row must have to fill it."""
COPYING = {
    "guidance": ("guidance", "g"),
    "by": ("by", ""),
    "count": ("count", ""),
    "copied": ("copied", ".1%"),
    "nearer": ("nearer than held-out", ".3f"),
    "c_t": ("C_T", ".1f"),
    "from_training": ("nearest is a training image", ".1%"),
    "expected_from_training": ("expected", ".1%"),
    "identical": ("equal to one", ""),
    "held_out_identical": ("held-out equal to one", ""),
}
"""The same of the table of memorisation."""


def metrics_table(rows: list[Row], first: str = "images") -> str:
    """Rows as Markdown; columns that no row has anything for are left out."""
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    cells = [[row["images"], *(_cell(row, key, COLUMNS[key][1]) for key in shown)] for row in rows]
    return table([first, *(COLUMNS[key][0] for key in shown)], cells)


def _cell(row: Row, key: str, form: str) -> str:
    """A metric with its interval, or without one with its spread, where the row has them."""
    value, low, high, spread = (row.get(f"{key}{end}") for end in ("", "_low", "_high", "_spread"))
    if value is None:
        return "–"
    if low is not None and high is not None:
        return f"{value:{form}} ({low:{form}} to {high:{form}})"
    return f"{value:{form}}" + ("" if spread is None else f" ± {spread:.2g}")


@dataclass(frozen=True)
class Memorised:
    """What shows whether the network has learned its training images by heart."""

    rows: tuple[Row, ...] = ()
    """For each set of images its guidance, what images were compared by, and the
    :class:`purrception.evaluation.metrics.memorisation.Memorisation`."""
    gap: GeneralisationGap | None = None
    """Of the losses."""
    missing: tuple[str, ...] = ()
    """What is not measured, and why."""

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "rows": list(self.rows),
            "gap": None if self.gap is None else asdict(self.gap),
            "missing": list(self.missing),
        }

    def markdown(self) -> list[str]:
        """The section of the report, by lines."""
        lines = ["## Memorisation", ""]
        if self.rows:
            cells = [[_cell(row, key, form) for key, (_, form) in COPYING.items()] for row in self.rows]
            lines += [
                "Copied are images as near to a training image as the nearest 5 % of the held-out images are; "
                "without memorisation that is 5 % of them, too. Nearer is the probability that an image lies "
                "nearer to its training image than a held-out image to its own: 0.5 without memorisation. C_T is "
                "its standard score: below −3 copied, above 3 underfitted. Safe images are near to all images; "
                "copies are those whose nearest image, of training and held-out ones, is a training image more "
                f"often than expected. Among {self.rows[0]['training']} training images; codes are compared site "
                "by site.",
                "",
                table([title for title, _ in COPYING.values()], cells),
                "",
            ]
        if self.gap is not None:
            gap = self.gap
            lines += [
                f"Loss on {gap.count} training images {gap.training:.3f}, on as many held-out ones "
                f"{gap.held_out:.3f}, under the same noise: a gap of {gap.gap:.3f} ({gap.gap_low:.3f} to "
                f"{gap.gap_high:.3f}).",
                "",
            ]
        for row in self.rows:
            if row["verdict"]:
                lines += [f"**By {row['by']} at guidance {row['guidance']:g}:** {row['verdict']}.", ""]
        lines += [part for one in self.missing for part in (f"Not measured: {one}.", "")]
        return lines


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
    memorised: Memorised = Memorised()
    real_parts: tuple[PartRecognised, ...] = ()
    """How well the classifier recognises each part of the names of the reference's classes."""

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
            "memorisation": self.memorised.plain(),
            "classifier_accuracy_parts": [asdict(part) for part in self.real_parts],
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
            low, high = share_interval(self.classifier_accuracy, self.manifest["reference"]["count"])
            lines += [
                f"Classifier accuracy on the real reference images: {self.classifier_accuracy:.1%} ({low:.1%} to "
                f"{high:.1%}). `recognised` cannot mean more than that.",
                "",
            ]
        lines += [part for warning in self.warnings for part in (f"**Note.** {warning}", "")]
        rows = [self._with_floor(row) for row in (*self.floors, *self.rows)]
        lines += [metrics_table(rows), ""]
        if self.floors:
            lines += [
                "Floors are of real images alone, at the count in their row: what a perfect model would reach. In "
                "brackets, where the mean over repetitions with other images lies with 95 % confidence; two of "
                "them differ by chance by up to √2 times half the width.",
                "",
            ]
        if parts := sorted({row["inception_score_part"] for row in rows if row.get("inception_score_part")}):
            lines += [
                "IS depends on the number of images in a part, over which it is averaged: here "
                f"{' and '.join(map(str, parts))}. Published scores are of 5000.",
                "",
            ]
        lines += [*self._parts(), *self._classes(), *self.memorised.markdown()]
        lines += [f"![Distances, the worst classes, and the nearest training images]({REPORT_PICTURE})", ""]
        manifest = [[key, _short(value)] for key, value in flattened(self.manifest).items()]
        lines += ["## Manifest", "", table(["what", "value"], manifest)]
        return "\n".join(lines) + "\n"

    def _with_floor(self, row: Row) -> Row:
        floor = self.frechet_floor
        return {**row, "times_floor": row["frechet"] / floor} if floor else row

    def _parts(self) -> list[str]:
        """Recognition of each part of the classes' names, beside that of real images."""
        if not self.real_parts:
            return []
        titles = [f"{', '.join(part.values[:3])}{', …' * (len(part.values) > 3)}" for part in self.real_parts]
        real = [asdict(part) for part in self.real_parts]
        named = [("real reference images", real)]
        named += [(_name(row), row["parts"]) for row in self.rows if row.get("parts")]
        cells = [[name, *(_cell(part, "recognised", ".1%") for part in parts)] for name, parts in named]
        return ["## Recognised by parts of the class", "", table(["images", *titles], cells), ""]

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


def _name(row: Row) -> str:
    guidance = "" if row.get("guidance") is None else f", guidance {row['guidance']:g}"
    return f"{row['images']}{guidance}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)
