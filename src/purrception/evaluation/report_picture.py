"""The figure of an evaluation's report: distances with their floors, and examples of the worst classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purrception.data import UnreadableImageError
from purrception.evaluation.extractors import with_channels
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.image_sets import ImageSet
from purrception.evaluation.report import Evaluation, Row
from purrception.evaluation.training_neighbours import ShownPairs
from purrception.storage import save_png
from purrception.storage.report import REPORT_PICTURE
from purrception.utils.visualisation import tile_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_SHOWN, EXAMPLES = 6, 8
LARGEST_SIDE = 64
"""Pixels of an example; larger images are thinned out."""

PAIRS, PAIR_ROWS = 10, 2
"""Generated images in a row above their nearest training images, and how many such rows."""

Shown = tuple[ImageSet, ImageFeatures]
"""Images with their features."""


def draw(
    result: Evaluation, made: Shown, real: Shown | None, folder: Path, pairs: ShownPairs | None = None
) -> None:
    """Write the picture to ``folder``; examples need labels on both sides."""
    from matplotlib.figure import Figure

    classes = result.classes[:CLASSES_SHOWN] if real is not None else ()
    bars = [*result.floors, *result.rows]
    heights = [0.5 + 0.32 * len(bars), *([0.5 + 0.46 * len(classes)] if classes else [])]
    heights += [0.5 + 1.45 * PAIR_ROWS] if pairs is not None else []
    figure = Figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights))
    _draw_distances(panels[0], bars, len(result.floors))
    if classes and real is not None:
        lines = [
            _examples(*side, label)
            for one in classes
            for side, label in ((made, one.label), (real, one.real_label))
        ]
        sheet = tile_images(np.concatenate(lines), columns=2 * EXAMPLES)
        panels[1].imshow(sheet)
        panels[1].axvline(sheet.shape[1] / 2 - 0.5, color="C1", linewidth=2)
        step = sheet.shape[0] / len(classes)
        panels[1].set_yticks([(row + 0.5) * step for row in range(len(classes))], [one.name for one in classes])
        panels[1].set_xticks([sheet.shape[1] / 4, 3 * sheet.shape[1] / 4], ["evaluated", "real"])
        panels[1].set_title("the worst classes, the worst first", fontsize=10)
    if pairs is not None:
        _draw_pairs(panels[-1], pairs)
    save_png(figure, folder / REPORT_PICTURE)


def _draw_pairs(panel: Axes, pairs: ShownPairs) -> None:
    """The generated images that are nearest to training images, each above its own, the nearest first."""
    tiles: list[np.ndarray] = []
    for numbers in list(zip(pairs.generated_rows, pairs.training_rows, strict=True))[: PAIRS * PAIR_ROWS]:
        above, below = map(_read, (pairs.generated, pairs.training), numbers)
        if above is not None and below is not None:
            gap = np.full_like(above[:2], 96)
            tiles.append(np.concatenate([above, gap, below]))
    panel.imshow(tile_images(np.stack(tiles), columns=PAIRS))
    panel.set_axis_off()
    panel.set_title(
        "generated images nearest to a training image, which is below each; the nearest first", fontsize=10
    )


def _draw_distances(panel: Axes, rows: Sequence[Row], floors: int) -> None:
    places = np.arange(len(rows))[::-1]
    names = [_title(row) for row in rows]
    values = np.array([row["frechet"] for row in rows])
    low, high = (
        np.array([value if row[end] is None else row[end] for row, value in zip(rows, values, strict=True)])
        for end in ("frechet_low", "frechet_high")
    )
    reach = np.stack([values - low, high - values]).clip(min=0)
    for chosen, colour in ((slice(0, floors), "grey"), (slice(floors, None), "C0")):
        panel.errorbar(values[chosen], places[chosen], xerr=reach[:, chosen], fmt="o", color=colour, capsize=4)
    if low.min() > 0:
        panel.set_xscale("log")
    panel.set_yticks(places, names)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set(xlabel="Fréchet distance to the reference, with its 95 % interval")


def _title(row: Row) -> str:
    guidance = "" if row.get("guidance") is None else f", guidance {row['guidance']:g}"
    return f"{row['images']}{guidance} ({row['count']})"


def _examples(images: ImageSet, features: ImageFeatures, label: int) -> np.ndarray:
    """The first images of a class, ``[EXAMPLES, H, W, C]``; grey where there are fewer."""
    assert features.labels is not None
    assert features.rows is not None
    chosen = features.rows[features.labels == label][:EXAMPLES].tolist()
    thinned = [array for row in chosen if (array := _read(images, row)) is not None]
    filled = [*thinned, *[np.full_like(thinned[0], 96)] * (EXAMPLES - len(thinned))]
    return np.stack(filled)


def _read(images: ImageSet, row: int) -> np.ndarray | None:
    """An image in three channels, thinned out if it is large; none where it cannot be read."""
    found = images.read(range(row, row + 1))[0]
    if isinstance(found, UnreadableImageError):
        return None
    array = with_channels(found[0], 3, "")
    return array[:: max(1, array.shape[0] // LARGEST_SIDE), :: max(1, array.shape[1] // LARGEST_SIDE)]
