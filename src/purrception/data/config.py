"""What images to take and how to show them; the interface of every source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from purrception.data.transforms import MODES
from purrception.utils.errors import InputError, unknown_name

Split = Literal["train", "test"]

SOURCE_NAMES = ("digits", "photos", "folder", "webdataset", "hub", "noise")
"""Every image source; :mod:`purrception.data.sources` says which class opens each."""

ENLARGED_AT_MOST = 4
"""An image is enlarged this much at most; a smaller one counts as broken."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are shown to the tokenizer."""

    source: str = "digits"
    """digits or photos (embedded, nothing to download), folder, webdataset (tars) or hub (Hugging Face)."""
    root: str = ""
    """The folder of images; tars as a pattern such as 'in/train-{000..146}.tar'; or the name of a hub data set."""
    tokens: str = ""
    """Folder, local or any fsspec address, that `purrception prepare` wrote: training then reads no images."""
    image_size: int = 16
    """Side of the square images, in pixels; 0 lets the recipe folder choose."""
    channels: int = 1
    """1 for grey images, 3 for RGB."""
    classes: int | None = None
    """Classes that there must be; 0 takes all images without classes, wherever they lie. Default: as found."""
    flips: bool = False
    """Also encode each training image mirrored left to right. Wrong for digits and letters."""
    views: int = 0
    """Random crops of each training image, encoded in place of its centre, mirrored by chance if flips is set."""
    test_fraction: float = 0.2
    """Share of the images (photos: of their columns) held out for testing, always the same ones."""
    hub_split: str = "train"
    """Split of a hub data set that training and held-out images come from."""

    def __post_init__(self) -> None:
        """Refuse what no source can serve."""
        if self.source not in SOURCE_NAMES:
            raise unknown_name("image source", self.source, SOURCE_NAMES)
        if self.channels not in MODES:
            raise InputError(f"data.channels is 1 (grey) or 3 (RGB); given {self.channels}")
        if self.image_size < 8 and self.image_size != 0:
            raise InputError(f"data.image_size is at least 8 pixels; given {self.image_size}")
        if not 0 <= self.test_fraction < 1:
            raise InputError(f"data.test_fraction lies in [0, 1); given {self.test_fraction}")
        if self.views < 0 or (self.classes is not None and self.classes < 0):
            raise InputError(f"data.views and data.classes are at least 0; given {self.views} and {self.classes}")

    @property
    def smallest_side(self) -> int:
        """Pixels below which the short side of an image counts as broken."""
        return max(1, self.image_size // ENLARGED_AT_MOST)


class ImageSource(Protocol):
    """A finite, ordered set of images. Indexing reads; nothing is held open."""

    class_names: tuple[str, ...]
    """Names by label; empty when the source has no classes."""

    @property
    def listing(self) -> str:
        """A hash of what is listed, in order: equal for equal lists of images."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image ``index``, its centre, as (uint8 ``[H, W, C]``, label); the label is 0 without classes.

        Raises:
            UnreadableImageError: the file is broken or too small; others can still be read.
        """
        ...

    def picture(self, index: int) -> tuple[Image.Image, int]:
        """Image ``index`` whole, in mode L or RGB, and its label; raises as indexing does."""
        ...
