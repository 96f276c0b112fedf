"""Pictures that people bring, brought to what a model takes; and what they painted on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from purrception.data import UnreadableImageError, decode_image
from purrception.data.decoding import opened
from purrception.data.transforms import MODES, crop_to_square
from purrception.utils.errors import InputError

LARGEST_PICTURE = 40_000_000
"""Pixels of a picture beyond which it is refused unread: unpacked, it would take hundreds of megabytes."""
PAINTED = 128
"""Of 255: how bright a grey mask is where it counts as painted."""


@dataclass(frozen=True)
class ImageProcessor:
    """Size and channels of the images of a model."""

    height: int
    width: int
    channels: int

    def preprocess(self, picture: Image.Image) -> Image.Image:
        """A picture as training images are shown: its centre, scaled, in mode L or RGB.

        Raises:
            InputError: the model's images are no squares, and the picture has another size than they.
        """
        picture = picture.convert(MODES[self.channels])
        if picture.size == (self.width, self.height):
            return picture
        if self.height != self.width:
            raise InputError(
                f"this model makes images of {self.width}×{self.height} pixels, and the picture has "
                f"{picture.width}×{picture.height}: cut it to that size"
            )
        return crop_to_square(picture, self.height)

    def preprocess_mask(self, mask: Image.Image | np.ndarray, picture: Image.Image) -> np.ndarray:
        """Pixels of the fitted picture that a mask touches, however lightly: bool ``[height, width]``.

        Args:
            mask: as large as ``picture``; painted where it is bright, or true in a bool array ``[H, W]``.
            picture: before it was fitted.

        Raises:
            InputError: it has another size, or nothing is painted on the part of the picture that is used.
        """
        painted = mask if isinstance(mask, np.ndarray) else np.asarray(mask.convert("L")) >= PAINTED
        if painted.shape != (picture.height, picture.width):
            raise InputError(
                f"a mask is as large as its picture; given {'×'.join(map(str, painted.shape[::-1]))} and "
                f"{picture.width}×{picture.height} pixels"
            )
        if (self.width, self.height) != picture.size:
            side = min(picture.size)
            top, left = (picture.height - side) // 2, (picture.width - side) // 2
            painted = painted[top : top + side, left : left + side]
        touched = _touched(_touched(painted.astype(bool), self.height).T, self.width).T
        if not touched.any():
            raise InputError("nothing is painted on the picture (its centre square): paint what may change")
        return touched


def read_picture(path: Path | str, channels: int = 3) -> Image.Image:
    """A picture from a file that a person chose, in mode L (``channels`` 1) or RGB.

    Training data is taken as it comes; a picture to edit should be what its owner sees, so what would be changed
    silently is refused: animations, print colours, and pictures too large to be unpacked for one crop.

    Raises:
        InputError: not a file, not an image, or one of the above.
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
            f"{path.name} is not a picture that is taken here: {error.reason}; give a PNG or JPEG of ordinary size"
        ) from error
    if frames > 1:
        raise InputError(f"{path.name} is an animation of {frames} frames: give one of them as a picture")
    if mode == "CMYK":
        raise InputError(
            f"{path.name} is in print colours (CMYK), which look different on a screen: save it as RGB"
        )
    return decode_image(path, path.name, channels)


def _touched(painted: np.ndarray, size: int) -> np.ndarray:
    """Bool ``[H, W]`` → ``[size, W]``: whether any row that overlaps a new, larger or smaller, one is true."""
    edges = np.linspace(0, len(painted), size + 1)
    rows = zip(np.floor(edges[:-1] + 1e-9).astype(int), np.ceil(edges[1:] - 1e-9).astype(int), strict=True)
    return np.stack([painted[first:last].any(axis=0) for first, last in rows])
