"""Images and figures as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from purrception.storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(image: Figure | Image.Image, path: Path, dpi: float = 110) -> None:
    """Write an image or a figure as a PNG file; a figure at ``dpi`` dots per inch.

    Raises:
        InputError: the disk is full.
    """
    with whole_file(path) as partial:
        if isinstance(image, Image.Image):
            image.save(partial, format="png")
        else:
            image.savefig(partial, format="png", dpi=dpi)
