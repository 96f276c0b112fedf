"""Objectives compared on several sets of images: where an advantage holds, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from purrception.comparison.report import RANKED, mean_and_spread
from purrception.comparison.rows import ROWS_FILE, Rows, read_rows
from purrception.comparison.run import compare
from purrception.comparison.settings import Protocol
from purrception.data import find_source
from purrception.experiment.config import RunConfig
from purrception.experiment.recipes import RECIPES, fit_to_images, get_recipe
from purrception.storage import one_writer
from purrception.storage.report import Section, write_report
from purrception.utils.errors import InputError, resumable
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "frechet": "Fréchet distance",
    "bits_per_code": "bits per code",
    "recall": "recall",
    "recognised": "recognised",
}


@dataclass(frozen=True)
class Advantage:
    """The first objective against another on one set, in one metric of which lower is better."""

    images: str
    other: str
    metric: str
    ratio: float
    """The other's mean divided by the first's: above 1 the first is better."""
    holds: str
    """yes, no, or undecided where the difference is within the spread of both."""


def suite(names: Sequence[str], protocol: Protocol, steps: int, folder: Path) -> Path:
    """Compare on each set in turn and write one report; called again, it resumes with what is missing.

    Args:
        names: ``digits@16``, ``photos@32``, or folders of images, each with an optional size behind an @.
        protocol: entries, seeds and images per measurement; the first entry is compared with each of the others.
        steps: of each training.
        folder: receives a comparison's folder for each set, and the report.

    Returns:
        The report.

    Raises:
        InputError: nothing to compare on, or images that cannot be compared on; another process writes there, or
            the disk is full.
    """
    if not names:
        raise InputError("a suite needs images: give --sets or --folders")
    recipes = {name: recipe_for(name, steps) for name in names}
    results: dict[str, Rows] = {}
    with one_writer(folder), resumable(f"the same command goes on with {folder}"):
        for name, recipe in recipes.items():
            print(f"{name}: {recipe.data.image_size} pixels", flush=True)
            compare(recipe, protocol, folder / recipe.name)
            results[name] = read_rows(folder / recipe.name / ROWS_FILE)
        return write_suite(results, protocol, steps, folder)


def recipe_for(name: str, steps: int) -> RunConfig:
    """The recipe for a set's images at their size, trained for ``steps``.

    Raises:
        InputError: the size is no number, or the images are not there.
    """
    base, _, size = name.rpartition("@") if "@" in name else (name, "", "0")
    if not size.isdecimal():
        raise InputError(f"a set of a suite is NAME@PIXELS, such as digits@16, or a folder; given {name!r}")
    pixels = int(size)
    if base in RECIPES:
        recipe = get_recipe(base)
        if pixels:
            recipe = replace(recipe, data=replace(recipe.data, image_size=pixels))
    else:
        source, root = find_source(base)
        if not Path(root).is_dir():
            raise InputError(
                f"no folder of images at {root!r}: recipes with images are digits, photos, fashion and emoji"
            )
        recipe = get_recipe("folder")
        data = replace(recipe.data, source=source, root=root, image_size=pixels, test_fraction=0.2)
        recipe, said = fit_to_images(replace(recipe, data=data), data)
        print(said, flush=True)
    label = f"{Path(base).name or base}-{recipe.data.image_size}"
    return replace(recipe, name=label, training=replace(recipe.training, steps=steps))


def advantages(results: dict[str, Rows], protocol: Protocol) -> list[Advantage]:
    """The first entry against each other one, on each set and in each ranked metric."""
    first, *others = protocol.entries
    found = []
    for images, rows in results.items():
        for other in others:
            for metric in RANKED:
                mine, theirs = (_final(rows, entry, metric) for entry in (first, other))
                if mine and theirs:
                    found.append(
                        Advantage(images, other, metric, fmean(theirs) / fmean(mine), _holds(mine, theirs))
                    )
    return found


def _final(rows: Rows, entry: str, metric: str) -> list[float]:
    own = [row for row in rows if row["entry"] == entry]
    last = max((row["step"] for row in own), default=0)
    return [row[metric] for row in own if row["step"] == last]


def _holds(mine: list[float], theirs: list[float]) -> str:
    difference = fmean(theirs) - fmean(mine)
    spread = sum(stdev(values) for values in (mine, theirs) if len(values) > 1)
    if len(mine) == 1 or abs(difference) <= spread:
        return "undecided"
    return "yes" if difference > 0 else "no"


def write_suite(results: dict[str, Rows], protocol: Protocol, steps: int, folder: Path) -> Path:
    """Write a table of all sets, and where the first entry's advantage holds."""
    rows = [
        [images, entry, *(mean_and_spread(_final(found, entry, metric)) for metric in METRICS)]
        for images, found in results.items()
        for entry in protocol.entries
    ]
    held = advantages(results, protocol)
    first = protocol.entries[0]
    comparisons = [[one.images, one.other, METRICS[one.metric], f"{one.ratio:.2f}×", one.holds] for one in held]
    section = Section(
        "At the end of training",
        [
            f"{steps} steps, {protocol.seeds} seeds, {protocol.num} images; mean ± standard deviation over "
            "seeds. Each set has a tokenizer of its own, which its objectives share; distances are in the "
            "features of each set's own classifier, so that they compare within a set and not between sets.",
            table(["images", "objective", *METRICS.values()], rows),
            f"The advantage of {first}: how many times lower than the other, and whether the difference is "
            "larger than the standard deviations of both together.",
            table(["images", "against", "metric", "times lower", "holds"], comparisons),
        ],
        {"rows": results, "advantages": held},
        {"suite.png": _draw(held)},
    )
    protocol_lines = {"sets": ", ".join(results), "objectives": ", ".join(protocol.entries)}
    return write_report(folder, "Objectives across images", protocol_lines, {"suite": section})


def _draw(held: list[Advantage]) -> Figure:
    figure, made = panels(len(RANKED), width=5.2)
    for panel, metric in zip(made, RANKED, strict=True):
        own = [one for one in held if one.metric == metric]
        images = list(dict.fromkeys(one.images for one in own))
        others = list(dict.fromkeys(one.other for one in own))
        for number, other in enumerate(others):
            ratios = [
                next(one.ratio for one in own if (one.images, one.other) == (name, other)) for name in images
            ]
            places = [place + (number - (len(others) - 1) / 2) * 0.25 for place in range(len(images))]
            panel.bar(places, [ratio - 1 for ratio in ratios], width=0.22, bottom=1, label=f"against {other}")
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks(range(len(images)), images, fontsize=8)
        panel.set(title=f"{METRICS[metric]}: times lower")
    made[0].legend(fontsize=8)
    return figure
