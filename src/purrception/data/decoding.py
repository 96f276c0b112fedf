"""Image files as people have them → plain RGB or grey, or one error with the reason."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from purrception.data.transforms import MODES
from purrception.errors import InputError

NEED_MORE = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by name, and decodes only with the help of other programs."""
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
SIXTEEN_BIT_FORMATS = ("PNG", "PPM", "JPEG2000")
"""Formats whose deeper samples Pillow hands over as 0 to 65535, whatever their own maximum."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0, sections 8 and 19
WHITE_IS_ZERO, SIGNED = 0, 2
HALF_A_LEVEL = 0.5 / 255
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


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in small letters, of the formats that this Pillow opens."""
    known = Image.registered_extensions()
    # MPO is opened as the JPEG that it begins with
    opened = (set(Image.OPEN) | {"MPO"}) - NEED_MORE
    return frozenset(suffix for suffix, kind in known.items() if kind in opened)


def can_be_opened(data: bytes | Path) -> bool:
    """Whether Pillow knows the format by its first bytes, and can decode it by itself."""
    image_suffixes()  # every format is known from here on
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return image.format not in NEED_MORE
    except Exception:  # decoders meet damage with errors of every kind
        return False


def not_an_image(name: str) -> str:
    """Why a file of that name was not taken."""
    suffix = PurePosixPath(name).suffix
    return f"{suffix} is no suffix of images that Pillow opens" if suffix else "not an image in a known format"


def decode_image(data: bytes | Path, name: str, channels: int, smallest_side: int = 1) -> Image.Image:
    """An image as viewers show it, whole, in mode L (``channels`` 1) or RGB (3).

    It is turned as its EXIF entry says. Transparency shows white behind it; it is resolved here, before any
    resizing, so that the hidden colour of transparent pixels never bleeds into others. What is white in deeper
    images is the largest value of their format and depth, and 1 for floats; it never depends on the values. Of
    an animation the first frame is taken; colour profiles are not applied.

    Args:
        data: the file's content, or its path.
        name: for errors.
        channels: 1 or 3.
        smallest_side: pixels below which an image is refused.

    Raises:
        UnreadableImageError: it is empty, cut off, no image at all, too small, or what is white is not known.
    """
    try:
        if not data if isinstance(data, bytes) else data.stat().st_size == 0:
            raise UnreadableImageError(name, "the file is empty")
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if min(image.size) < smallest_side:
                size = f"{image.width}×{image.height}"
                raise UnreadableImageError(name, f"{size} pixels, smaller than {smallest_side}")
            black, white = _black_and_white(image)
            image.load()
            upright = _upright(image)
            if image.mode in DEEP_MODES:
                upright = _eight_bits(upright, black, white)
            return _flatten(upright).convert(MODES[channels])
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image in a known format") from error
    except Exception as error:  # decoders meet damage with errors of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(name, reason) from error


def _black_and_white(image: Image.Image) -> tuple[float, float]:
    """The values that an image's format and depth declare as black and white.

    Raises:
        ValueError: they declare none.
    """
    tiff = image.format == "TIFF"
    tags = image.tag_v2 if tiff else {}  # type: ignore[attr-defined]
    if SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        raise ValueError("signed integers, of which no value is declared to be black or white: save it unsigned")
    if image.mode == "F":
        white = 1.0
    elif image.mode not in DEEP_MODES:
        return 0.0, 255.0
    else:
        bits = int(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 16))[0])
        if bits > 16 or not (tiff or image.format in SIXTEEN_BIT_FORMATS):
            kind = f"{bits} bits" if tiff else f"mode {image.mode}"
            raise ValueError(f"{image.format} of {kind}: its white is not declared; save it with 8 or 16 bits")
        white = 2.0**bits - 1
    return (white, 0.0) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (0.0, white)


def _eight_bits(image: Image.Image, black: float, white: float) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    levels = (values - black) / (white - black)
    if not (levels.min() >= -HALF_A_LEVEL and levels.max() <= 1 + HALF_A_LEVEL):  # NaN is refused too
        raise ValueError(
            f"values from {values.min():g} to {values.max():g}; accepted are floats from 0 (black) to 1 (white), "
            "or 8 and 16 bits: scale them"
        )
    return Image.fromarray((levels * 255).round().clip(0, 255).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF entry says nothing about the pixels
        return image


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode → one that converts to L and RGB without loss of meaning."""
    if image.mode in ("RGBa", "La"):  # colours already multiplied by their opacity
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, BACKGROUND), whole).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")
