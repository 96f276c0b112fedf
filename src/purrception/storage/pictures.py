"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from purrception.storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(picture: Figure | Image.Image, path: Path, dpi: float = 110) -> None:
    """Write a picture whole, as PNG; a figure at ``dpi`` dots per inch.

    Raises:
        InputError: the disk is full.
    """
    with whole_file(path) as partial:
        if isinstance(picture, Image.Image):
            picture.save(partial, format="png")
        else:
            picture.savefig(partial, format="png", dpi=dpi)
