"""Image sources behind one interface, each with a fixed train/test split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from purrception.data.transforms import MODES, images_to_tensor, pil_to_array
from purrception.errors import InputError, unknown_name

Split = Literal["train", "test"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are shown to the tokenizer."""

    source: str = "digits"
    """digits or photos (embedded, nothing to download), or folder (class subfolders, or none)."""
    root: str = ""
    """The folder of images, for source=folder."""
    image_size: int = 16
    """Side of the square images, in pixels."""
    channels: int = 1
    """1 for grey images, 3 for RGB."""
    flips: bool = False
    """Also encode each training image mirrored left to right. Wrong for digits and letters."""
    test_fraction: float = 0.2
    """Share of the images (photos: of their columns) held out for testing, always the same ones."""

    def __post_init__(self) -> None:
        """Refuse what no source can serve."""
        if self.source not in SOURCES:
            raise unknown_name("image source", self.source, SOURCES)
        if self.channels not in MODES:
            raise InputError(f"data.channels is 1 (grey) or 3 (RGB); given {self.channels}")
        if self.image_size < 8:
            raise InputError(f"data.image_size is at least 8 pixels; given {self.image_size}")
        if not 0 <= self.test_fraction < 1:
            raise InputError(f"data.test_fraction lies in [0, 1); given {self.test_fraction}")


class ImageSource(Protocol):
    """A finite, ordered set of images of one shape. Indexing reads; nothing is held open."""

    class_names: tuple[str, ...]
    """Names by label; empty when the source has no classes."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image ``index`` as (uint8 ``[H, W, C]``, label); the label is 0 when there are no classes."""
        ...


class DigitsImages:
    """The 1797 handwritten digits that ship inside scikit-learn, 8×8 pixels scaled up bicubically.

    Every fifth image of a class is held out at the default ``test_fraction`` of 0.2.
    """

    class_names = tuple("0123456789")

    def __init__(self, config: DataConfig, split: Split) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        rank = np.zeros(len(digits.target), dtype=np.int64)  # number of the image within its class
        for label in range(10):
            members = np.flatnonzero(digits.target == label)
            rank[members] = np.arange(len(members))
        held_out = np.floor((rank + 1) * config.test_fraction) > np.floor(rank * config.test_fraction)
        chosen = np.flatnonzero(held_out == (split == "test"))
        self.labels = digits.target[chosen].astype(np.int64)
        grey = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self._images = [pil_to_array(Image.fromarray(image), config.image_size, config.channels) for image in grey]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._images[index], int(self.labels[index])


class PhotosImages:
    """Crops of the two colour photographs that ship inside scikit-learn: a pagoda and a dahlia.

    A window of 48×48 pixels visits each photograph of 427×640 pixels in steps of 5, and is scaled to the
    size asked for. Three vertical strips of each photograph are held out, evenly spaced. Every strip runs
    from top to bottom, so that both splits see sky, roofs, water and trees, or petals and leaves. A window
    wholly inside a strip is a test crop, one that touches no strip a training crop, and any other is
    dropped: the splits share no pixel.

    Raises:
        InputError: ``test_fraction`` leaves no room for a window in a strip, or beside the strips.
    """

    class_names: tuple[str, ...] = ("china", "flower")
    window = 48
    """Side of a crop in the photograph, pixels."""
    stride = 5
    """Between neighbouring crops, pixels; strips begin and end on multiples of it. At 32 pixels it is 3⅓ of
    them: a code meets each detail at every phase of the tokenizer's grid."""
    strips = 3
    """Held-out strips of each photograph."""

    def __init__(self, config: DataConfig, split: Split) -> None:
        from sklearn.datasets import load_sample_image

        self._config = config
        self._photos = [Image.fromarray(load_sample_image(f"{name}.jpg")) for name in self.class_names]
        width, height = self._photos[0].size
        strips = self._held_out_strips(width)
        columns = [
            left
            for left in range(0, width - self.window + 1, self.stride)
            if (self._is_inside(left, strips) if split == "test" else not self._touches(left, strips))
        ]
        if not columns and (split == "train" or config.test_fraction > 0):
            raise InputError(
                f"photos are cropped in windows {self.window} pixels wide: data.test_fraction is 0, or from "
                f"0.25 to 0.6, to leave room for them in both splits; given {config.test_fraction}"
            )
        self.crops: list[tuple[int, int, int]] = [
            (label, left, top)
            for label in range(len(self._photos))
            for top in range(0, height - self.window + 1, self.stride)
            for left in columns
        ]
        """(label, left, top) of each crop, pixels of the photograph."""

    def _held_out_strips(self, width: int) -> list[tuple[int, int]]:
        """Columns [start, stop) of the strips, with equal parts of the photograph beside and between them."""
        strip = self._on_lattice(width * self._config.test_fraction / self.strips)
        between = (width - self.strips * strip) / (self.strips + 1)
        starts = [self._on_lattice((1 + number) * between + number * strip) for number in range(self.strips)]
        return [(start, start + strip) for start in starts]

    def _on_lattice(self, pixels: float) -> int:
        return round(pixels / self.stride) * self.stride

    def _is_inside(self, left: int, strips: list[tuple[int, int]]) -> bool:
        return any(start <= left and left + self.window <= stop for start, stop in strips)

    def _touches(self, left: int, strips: list[tuple[int, int]]) -> bool:
        return any(left < stop and start < left + self.window for start, stop in strips if start < stop)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label, left, top = self.crops[index]
        crop = self._photos[label].crop((left, top, left + self.window, top + self.window))
        return pil_to_array(crop, self._config.image_size, self._config.channels), label


class FolderImages:
    """A folder of images: one subfolder per class, or images alone for an unconditional model.

    An image belongs to the test split when a hash of its relative path says so: adding images never moves
    another one between the splits.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        self._config = config
        self.root = Path(config.root)
        if not config.root or not self.root.is_dir():
            raise InputError(
                f"no folder of images at {config.root!r}: give one with --data.root DIR "
                "(class subfolders, or images alone for an unconditional model)"
            )
        classes = sorted(entry.name for entry in self.root.iterdir() if _holds_images(entry))
        flat = sorted(path for path in self.root.iterdir() if _is_image(path))
        if classes and flat:
            raise InputError(
                f"{self.root} holds class folders and {len(flat)} loose images such as {flat[0].name!r}: "
                "move them into class folders, or all images into one folder"
            )
        if not classes and not flat:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"{self.root} holds no images, nor folders of images ({known})")
        self.class_names = tuple(classes)
        members = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((self.root / name).rglob("*"))
            if _is_image(path)
        ] or [(path, 0) for path in flat]
        self._members = [member for member in members if self._is_held_out(member[0]) == (split == "test")]

    def _is_held_out(self, path: Path) -> bool:
        relative = path.relative_to(self.root).as_posix().encode()
        digest = hashlib.blake2b(relative, digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._config.test_fraction * 2**64

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path, label = self._members[index]
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)  # as viewers show it
                array = pil_to_array(upright, self._config.image_size, self._config.channels)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"cannot read the image {path}: {error}; mend or remove it") from error
        return array, label


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(_is_image(inner) for inner in path.rglob("*"))


SOURCES: dict[str, Callable[[DataConfig, Split], ImageSource]] = {
    "digits": DigitsImages,
    "photos": PhotosImages,
    "folder": FolderImages,
}


def open_images(config: DataConfig, split: Split) -> ImageSource:
    """Open one split of the images that ``config`` names.

    Raises:
        InputError: the folder is missing, empty or mixes class folders with loose images.
    """
    return SOURCES[config.source](config, split)


def load_split(config: DataConfig, split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split in memory: float32 ``[n, C, H, W]`` in [−1, 1], and labels, long ``[n]``.

    Raises:
        InputError: the split holds fewer than two images; see also :func:`open_images`.
    """
    source = open_images(config, split)
    if len(source) < 2:
        raise InputError(f"the {split} split holds {len(source)} images; at least 2 are needed")
    arrays, labels = zip(*(source[i] for i in range(len(source))), strict=True)
    return images_to_tensor(arrays), torch.tensor(labels)
