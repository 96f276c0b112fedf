"""Decoding image files of any kind to plain RGB or grey, or raising one error with the reason."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from purrception.data.config import MODES
from purrception.storage import plain_reason
from purrception.utils.errors import InputError

LARGEST_IMAGE = 100_000_000
"""The most pixels of an image that is decompressed: so many take 400 MB, and 800 while they are rotated or
composited."""
LARGEST_FILE = 2**29
"""The largest image file, in bytes."""
MOST_SCANNED = 3_000_000_000
"""The most pixels of a progressive JPEG times its number of scans, usually ten: a scan that adds nothing takes 23
bytes, and as long to decode as any other."""
BAND = 2**20
"""How many pixels are processed together where that takes many bytes per pixel."""

NEED_MORE = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises but decodes only with the help of other programs."""
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
SIXTEEN_BIT_FORMATS = ("PNG", "PPM", "JPEG2000")
"""Formats whose deeper samples Pillow returns as 0 to 65535, whatever their own maximum."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0, sections 8 and 19
WHITE_IS_ZERO, SIGNED = 0, 2
HALF_A_LEVEL = 0.5 / 255
MARKER, SCAN, END = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]"), 0xDA, 0xD9  # JPEG: ITU-T T.81, table B.1


class UnreadableImageError(InputError):
    """One image that cannot be read; others still can.

    Args:
        name: the name of the image.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read the image {name}: {reason}; repair or remove it")
        self.name, self.reason = name, reason


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that this version of Pillow opens."""
    # an MPO is opened as the JPEG that it begins with
    opened = {*_formats(), "MPO"}
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in opened)


@cache
def _formats() -> tuple[str, ...]:
    """The names of the formats that Pillow decodes by itself."""
    Image.preinit()  # the common ones first
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in NEED_MORE)


@contextlib.contextmanager
def opened(data: bytes | Path | IO[bytes], name: str, most: int = LARGEST_IMAGE) -> Iterator[Image.Image]:
    """An image whose size is known and accepted, before it is decompressed.

    This check replaces Pillow's own warning and error about large images.

    Args:
        data: the file's content, its path, or the open file.
        name: the name of the image, for errors.
        most: how many pixels it may have.

    Raises:
        UnreadableImageError: the file is empty, too large or not an image, or something was raised in the block.
    """
    try:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size if isinstance(data, Path) else None
        if size == 0:
            raise UnreadableImageError(name, "the file is empty")
        if (size or 0) > LARGEST_FILE:
            raise UnreadableImageError(name, f"{size} bytes; an image's file has at most {LARGEST_FILE}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an error says once what is wrong with an image
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_formats()) as image:
                if (pixels := image.width * image.height) > most:
                    raise _too_large(name, f"{image.width}×{image.height} are {pixels / 1e6:.0f} megapixels", most)
                if image.info.get("progressive") and (scans := _scans(image)) * pixels > MOST_SCANNED:
                    raise UnreadableImageError(name, f"a progressive JPEG of {scans} scans: save it with fewer")
                yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far too many megapixels", most) from error
    except Exception as error:  # damaged files raise every kind of error in decoders
        raise UnreadableImageError(name, plain_reason(error)) from error


def _scans(image: Image.Image) -> int:
    """The number of scans in a JPEG, without what cameras append after its end."""
    stream: IO[bytes] = image.fp  # type: ignore[attr-defined]
    before = stream.tell()
    stream.seek(0)
    content, place, scans = stream.read(), 2, 0
    stream.seek(before)
    while (found := MARKER.search(content, place)) and content[found.start() + 1] != END:
        scans += content[found.start() + 1] == SCAN
        place = found.end() + max(2, int.from_bytes(content[found.end() : found.end() + 2], "big"))
    return scans


def _too_large(name: str, size: str, most: int) -> UnreadableImageError:
    return UnreadableImageError(name, f"{size}; at most {most / 1e6:.0f} are accepted: scale it down")


def can_be_opened(data: Path | IO[bytes]) -> bool:
    """Whether Pillow recognises the format by the first bytes, and can decode it by itself."""
    try:
        if isinstance(data, Path) and not data.is_file():  # reading a pipe would never end
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(data, formats=_formats()):
                return True
    except Exception as error:  # damaged files raise every kind of error in decoders
        return isinstance(error, Image.DecompressionBombError)  # too large to be decoded, but an image


def not_an_image(name: str) -> str:
    """Why a file of that name does not count as an image."""
    suffix = PurePosixPath(name).suffix
    return f"{suffix} is not a suffix of images that Pillow opens" if suffix else "not an image in a known format"


def decode_image(data: bytes | Path, name: str, channels: int, smallest_side: int = 1) -> Image.Image:
    """Decode the whole image as viewers show it, in mode L (``channels`` 1) or RGB (3).

    The image is rotated as its EXIF entry says. Transparent pixels are composited on white before any resizing, so
    that their hidden colour never bleeds into others. In images of more than 8 bits, white is the largest value of
    the format and depth, or 1 for floats; it never depends on the pixels. Of an animation the first frame is
    used. Colour profiles are not applied.

    Args:
        data: the file's content, or its path.
        name: the name of the image, for errors.
        channels: 1 or 3.
        smallest_side: the fewest pixels that the short side may have.

    Raises:
        UnreadableImageError: the file is empty, truncated or not an image; the image is too small or larger than
            :data:`LARGEST_IMAGE`; or it is not known which value is white.
    """
    with opened(data, name) as image:
        if min(image.size) < smallest_side:
            size = f"{image.width}×{image.height}"
            raise UnreadableImageError(name, f"{size} pixels, smaller than {smallest_side}")
        black, white = _black_and_white(image)
        image.load()
        with contextlib.suppress(Exception):  # a damaged EXIF entry is ignored
            ImageOps.exif_transpose(image, in_place=True)
        deep = image.mode in DEEP_MODES
        return _flatten(_eight_bits(image, black, white) if deep else image, MODES[channels])


def _black_and_white(image: Image.Image) -> tuple[float, float]:
    """The values that are black and white by the image's format and depth.

    Raises:
        ValueError: the format does not say.
    """
    tiff = image.format == "TIFF"
    tags = image.tag_v2 if tiff else {}  # type: ignore[attr-defined]
    if SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1)):
        raise ValueError("signed integers, for which black and white are not defined: save it unsigned")
    if image.mode == "F":
        white = 1.0
    elif image.mode not in DEEP_MODES:
        return 0.0, 255.0
    else:
        bits = int(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 16))[0])
        if bits > 16 or not (tiff or image.format in SIXTEEN_BIT_FORMATS):
            kind = f"{bits} bits" if tiff else f"mode {image.mode}"
            raise ValueError(f"{image.format} of {kind}: its white is not defined; save it with 8 or 16 bits")
        white = 2.0**bits - 1
    return (white, 0.0) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (0.0, white)


def _eight_bits(image: Image.Image, black: float, white: float) -> Image.Image:
    ends = [(values.min(), values.max()) for values in map(np.asarray, bands(image))]
    low, high = np.min(ends), np.max(ends)
    levels = sorted((float(end) - black) / (white - black) for end in (low, high))
    if not (levels[0] >= -HALF_A_LEVEL and levels[1] <= 1 + HALF_A_LEVEL):  # NaN is refused too
        raise ValueError(
            f"values from {low:g} to {high:g}; accepted are floats from 0 (black) to 1 (white), "
            "or 8 and 16 bits: scale them"
        )

    def scale(band: Image.Image) -> Image.Image:
        levels = (np.asarray(band).astype(np.float64) - black) / (white - black)
        return Image.fromarray((levels * 255).round().clip(0, 255).astype(np.uint8))

    return _by_bands(image, scale, "L")


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Convert any mode to L or RGB, with transparent pixels composited on white."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _by_bands(image, lambda band: _on_white(band).convert(mode), mode)
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if plain.mode != mode:
        return plain.convert(mode)
    # The same pixels, independent of their file; copied only where they are mapped from it.
    return plain.copy() if plain.readonly else plain._new(plain.im)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):  # colours already multiplied by their opacity
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")


def _by_bands(image: Image.Image, change: Callable[[Image.Image], Image.Image], mode: str) -> Image.Image:
    """Change an image band by band, so that no more than the old and the new image is in memory."""
    done, top = Image.new(mode, image.size), 0
    for band in map(change, bands(image)):
        done.paste(band, (0, top))
        top += band.height
    return done


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """An image in pieces of its full width, from top to bottom, so that no array of all of it is needed."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))
