"""Image files as people have them → plain RGB or grey, or one error with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from purrception.data.transforms import MODES
from purrception.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
BACKGROUND = "white"


class UnreadableImageError(InputError):
    """One image that cannot be used, while others can.

    Args:
        name: which image, as its source names it.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read the image {name}: {reason}; mend or remove it")
        self.name, self.reason = name, reason


def decode_image(data: bytes | Path, name: str, channels: int, smallest_side: int = 1) -> Image.Image:
    """An image as viewers show it, whole, in mode L (``channels`` 1) or RGB (3).

    It is turned as its EXIF entry says. Transparency shows white behind it; it is resolved here, before any
    resizing, so that the hidden colour of transparent pixels never bleeds into others. 16-bit grey keeps its
    range (65535 is white), and so do floats in [0, 1]. Of an animation the first frame is taken; colour
    profiles are not applied.

    Args:
        data: the file's content, or its path.
        name: for errors.
        channels: 1 or 3.
        smallest_side: pixels below which an image is refused.

    Raises:
        UnreadableImageError: it is empty, cut off, no image at all, or too small.
    """
    try:
        if not data if isinstance(data, bytes) else data.stat().st_size == 0:
            raise UnreadableImageError(name, "the file is empty")
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if min(image.size) < smallest_side:
                size = f"{image.width}×{image.height}"
                raise UnreadableImageError(name, f"{size} pixels, smaller than {smallest_side}")
            image.load()
            return _flatten(_upright(image), name).convert(MODES[channels])
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image in a known format") from error
    except Exception as error:  # decoders meet damage with errors of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(name, reason) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF entry says nothing about the pixels
        return image


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Any mode → one that converts to L and RGB without loss of meaning."""
    if image.mode in DEEP_MODES:
        return _eight_bits(image, name)
    if image.mode in ("RGBa", "La"):  # colours already multiplied by their opacity
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, BACKGROUND), whole).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    highest = float(values.max())
    if not np.isfinite(values).all() or highest > 65535:
        raise UnreadableImageError(name, f"values up to {highest:g}; accepted are 8 and 16 bits, or 0 to 1")
    if image.mode == "F" and highest <= 1:
        values *= 255
    elif image.mode.startswith("I;16") or highest > 255:
        values /= 257  # 65535 is white
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
