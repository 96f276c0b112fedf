"""Preprocessing of the pictures that people edit, and of their masks, to the size of a model's images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from purrception.data import UnreadableImageError, decode_image
from purrception.data.config import MODES
from purrception.data.decoding import opened
from purrception.data.transforms import crop_to_square
from purrception.utils.errors import InputError

LARGEST_PICTURE = 40_000_000
"""Largest number of pixels of a picture; larger ones are refused before they are decoded, to bound the memory."""
PAINTED = 128
"""Brightness, of 255, from which on a pixel of a grey mask counts as painted."""


@dataclass(frozen=True)
class ImageProcessor:
    """Brings pictures and masks to the size and channels of a model's images."""

    height: int
    width: int
    channels: int

    def preprocess(self, picture: Image.Image, position: float = 0.5) -> Image.Image:
        """A picture preprocessed like training images: a square of it, scaled, in mode L or RGB.

        Args:
            picture: the picture.
            position: of the square along the long side, from 0 (left or top) to 1; by default the centre.

        Raises:
            InputError: the model's images are not square, and the picture has another size.
        """
        picture = picture.convert(MODES[self.channels])
        if picture.size == (self.width, self.height):
            return picture
        if self.height != self.width:
            raise InputError(
                f"this model makes images of {self.width}×{self.height} pixels, and the picture has "
                f"{picture.width}×{picture.height}: crop it to that size"
            )
        return crop_to_square(picture, self.height, position)

    def preprocess_mask(self, mask: Image.Image | np.ndarray, picture: Image.Image) -> np.ndarray:
        """Pixels of the preprocessed picture that a mask touches, even partly: bool ``[height, width]``.

        Args:
            mask: of the size of ``picture``; painted where it is bright, or where a bool array ``[H, W]`` is true.
            picture: the picture before preprocessing.

        Raises:
            InputError: the mask has another size, or nothing is painted on the part of the picture that is used.
        """
        painted = mask if isinstance(mask, np.ndarray) else np.asarray(mask.convert("L")) >= PAINTED
        if painted.shape != (picture.height, picture.width):
            raise InputError(
                f"a mask must have the size of its picture; given {'×'.join(map(str, painted.shape[::-1]))} and "
                f"{picture.width}×{picture.height} pixels"
            )
        if (self.width, self.height) != picture.size:
            side = min(picture.size)
            top, left = (picture.height - side) // 2, (picture.width - side) // 2
            painted = painted[top : top + side, left : left + side]
        touched = _touched(_touched(painted.astype(bool), self.height).T, self.width).T
        if not touched.any():
            raise InputError("nothing is painted on the picture (on its centre square): paint what may change")
        return touched


def read_picture(path: Path | str, channels: int = 3) -> Image.Image:
    """Read a picture from a file that a person chose, in mode L (``channels`` 1) or RGB.

    A picture to edit should look as its owner sees it. What could only be read with a silent change is refused:
    animations, and colours for print (CMYK). So are pictures that are very large.

    Raises:
        InputError: the path is not a file, or not a picture that is accepted.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path.name} is not a file: give a picture, such as a PNG or JPEG")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty: its file has zero bytes")
    try:
        with opened(path, path.name, LARGEST_PICTURE) as picture:
            mode, frames = picture.mode, getattr(picture, "n_frames", 1)
    except UnreadableImageError as error:
        raise InputError(
            f"{path.name} is not a picture that can be edited: {error.reason}; give a PNG or JPEG of ordinary size"
        ) from error
    if frames > 1:
        raise InputError(f"{path.name} is an animation of {frames} frames: give one of them as a picture")
    if mode == "CMYK":
        raise InputError(
            f"{path.name} is in print colours (CMYK), which look different on a screen: save it as RGB"
        )
    return decode_image(path, path.name, channels)


def _touched(painted: np.ndarray, size: int) -> np.ndarray:
    """Resize bool ``[H, W]`` to ``[size, W]``: a new row is true where any row that it overlaps is."""
    edges = np.linspace(0, len(painted), size + 1)
    rows = zip(np.floor(edges[:-1] + 1e-9).astype(int), np.ceil(edges[1:] - 1e-9).astype(int), strict=True)
    return np.stack([painted[first:last].any(axis=0) for first, last in rows])
