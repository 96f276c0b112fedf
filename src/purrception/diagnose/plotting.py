"""What the pictures of a diagnosis have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show_image(panel: Axes, image: np.ndarray, title: str = "") -> None:
    """An image, uint8 ``[H, W, C]``, without axes."""
    panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    bare(panel, title)


def show_map(panel: Axes, values: Tensor, largest: float, image: np.ndarray | None = None, title: str = "") -> Any:
    """A map of numbers ``[h, w]``, over the image it is of where one is given; returns what a colour bar takes."""
    height, width = (len(image), image.shape[1]) if image is not None else values.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if image is not None and image.shape[2] > 1:
        panel.imshow(image, interpolation="nearest", extent=extent)
    drawn = panel.imshow(
        values.cpu().numpy(),
        cmap="inferno",
        vmin=0,
        vmax=max(largest, 1e-9),
        interpolation="nearest",
        extent=extent,
        alpha=0.65 if image is not None and image.shape[2] > 1 else 1.0,
    )
    if image is not None and image.shape[2] == 1:  # a grey image shows better as the outline of what is drawn
        panel.contour(image[..., 0], levels=[110], colors="white", linewidths=1.1, alpha=0.9)
    bare(panel, title)
    return drawn


def bare(panel: Axes, title: str = "") -> None:
    """No ticks, no frame."""
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    if title:
        panel.set_title(title, fontsize=8)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` numbers from 0, evenly spread, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most)).tolist()})


def per_line(values: Sequence[Any], template: str = "{}") -> str:
    """Values in a row, separated by commas; a dash where there are none."""
    return ", ".join(template.format(value) for value in values) or "–"
