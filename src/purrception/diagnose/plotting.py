"""Helpers for the figures and texts of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show_image(panel: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw an image, uint8 ``[H, W, C]``, without axes."""
    panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    hide_axes(panel, title)


def show_map(panel: Axes, values: Tensor, largest: float, image: np.ndarray | None = None, title: str = "") -> Any:
    """Draw a map of numbers ``[h, w]``, over an image if one is given; return what a colour bar needs."""
    height, width = values.shape if image is None else image.shape[:2]
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
    if image is not None and image.shape[2] == 1:  # of a grey image, the outline is easier to see
        panel.contour(image[..., 0], levels=[110], colors="white", linewidths=1.1, alpha=0.9)
    hide_axes(panel, title)
    return drawn


def hide_axes(panel: Axes, title: str = "") -> None:
    """Remove the ticks and the frame."""
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    if title:
        panel.set_title(title, fontsize=8)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` evenly spaced numbers of 0 to ``count − 1``, with the first and the last."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(count, most)).tolist()})


def comma_separated(values: Sequence[Any]) -> str:
    """Values separated by commas; a dash if there are none."""
    return ", ".join(map(str, values)) or "–"
