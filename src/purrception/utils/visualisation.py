"""Images and plots to look at: sheets of images, heat maps and panels."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
"""Colours from dark to bright at equal distances, RGB; those of matplotlib's map inferno."""


def tile_images(images: np.ndarray, columns: int | None = None, scale: int = 1) -> np.ndarray:
    """Tile images row by row on a sheet, with grey gaps of two pixels between them.

    Args:
        images: uint8 ``[n, H, W, C]``.
        columns: the number of images per row; by default as many as make about a square.
        scale: the factor by which each pixel is enlarged.

    Returns:
        uint8 ``[H', W', C]``.
    """
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    (count, height, width, channels), gap = images.shape, 2
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 96, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def class_columns(labels: Sequence[int]) -> int:
    """How many images to put in a row, so that each class has columns of its own and the sheet is nearly square.

    It is square where the classes do not take turns, as in 0 1 2 0 1 2 …, or are too many for that: more than
    twice as many as a square has columns.

    Args:
        labels: the class of each image, in the order of the sheet.
    """
    count = len(labels)
    square = math.ceil(math.sqrt(count))
    turn = next(turn for turn in range(1, count + 1) if all(map(operator.eq, labels, labels[turn:])))
    if 2 * turn > count or turn > 2 * square:
        return square
    return turn * max(1, round(square / turn))


def heat_map(values: np.ndarray, maximum: float, size: tuple[int, int]) -> Image.Image:
    """Numbers as colours, from dark for 0 to bright for ``maximum``, each a square.

    Args:
        values: float ``[h, w]``.
        maximum: the value of the brightest colour, such as ln K for an entropy.
        size: the (width, height) of the map, in pixels.
    """
    scaled = np.clip(values / max(maximum, 1e-12), 0, 1)
    places = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(scaled, places, channel) for channel in COLOURS.T], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def panels(columns: int, rows: int = 1, width: float = 4.4, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` × ``columns`` panels, in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    made = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for panel in made:
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, made
