"""Which images to use and how to prepare them; the interface of every source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from purrception.storage.names import HUB_PREFIX
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_at_least

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Split = Literal["train", "test"]

SOURCE_NAMES = ("digits", "photos", "emoji", "folder", "idx", "webdataset", "hub", "noise")
"""Every image source; :mod:`purrception.data.sources` says which class opens each."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode of an image by its number of channels."""

BUILT_IN = ("digits", "photos", "emoji")
"""Sources that need no files: they come with packages."""
PREFIXES = {HUB_PREFIX: "hub", "emoji:": "emoji"}
"""The source that a text on the command line names by how it begins; its root follows."""

SEPARATOR = " · "
"""What joins the parts in the name of a class that is a combination, such as category and style."""

ENLARGED_AT_MOST = 4
"""How much an image is enlarged at most; a smaller one counts as broken."""


@dataclass(frozen=True)
class DataConfig:
    """Which images to use, and how the tokenizer sees them."""

    RENAMED: ClassVar[dict[str, str]] = {"num_classes": "classes"}
    """Names that fields had in older commands."""

    source: str = "digits"
    """Where images come from: digits or photos (built in, nothing to download), emoji (a package), folder, idx
    (MNIST's kind of files), webdataset (tars) or hub (Hugging Face)."""
    root: str = ""
    """The folder of images, a pattern of tars such as 'in/train-{000..146}.tar', or the name of a hub data set."""
    tokens: str = ""
    """A folder that `purrception prepare` wrote, local or at any fsspec address; training then reads no images."""
    image_size: int = 16
    """The side of the square images, in pixels; 0 lets the recipe folder choose."""
    channels: int = 1
    """Channels of the images: 1 for grey, 3 for RGB."""
    classes: int | None = None
    """How many classes there must be; 0 uses all images without classes, however deep in the folder. By default,
    as many as are found."""
    class_names: tuple[str, ...] = ()
    """The names of the classes by label, for images that only number them, as IDX files do."""
    enlarge: bool = True
    """Enlarge images that are smaller than image_size; otherwise they keep their pixels, amid black."""
    flips: bool = False
    """Also encode the mirror image of each training image. Wrong for digits and letters."""
    views: int = 0
    """How many random crops of each training image to encode in place of its centre, mirrored at random if flips
    is set."""
    test_fraction: float = 0.2
    """The share of the images (for photos, of their columns; for emoji, of their families) that is held out for
    testing, always the same ones. Images that come with a test split of their own hold out that."""
    styles: tuple[str, ...] = ("openmoji",)
    """For emoji, the styles: openmoji (in a package), google, twitter and fluent (npm's packages, below root)."""
    tones: Literal["none", "balanced", "all"] = "none"
    """For emoji, the skin tones: none, balanced (one of each family, all as often) or all."""
    hub_split: str = "train"
    """The split of a hub data set that training images come from."""
    hub_test_split: str = ""
    """The split of a hub data set that held-out images come from; by default, a share of hub_split."""

    def __post_init__(self) -> None:
        """Refuse settings that no source can satisfy."""
        if self.source not in SOURCE_NAMES:
            raise unknown_name("image source", self.source, SOURCE_NAMES)
        if self.channels not in MODES:
            raise InputError(f"data.channels is 1 (grey) or 3 (RGB); given {self.channels}")
        if self.image_size < 8 and self.image_size != 0:
            raise InputError(f"data.image_size is at least 8 pixels; given {self.image_size}")
        if not 0 <= self.test_fraction < 1:
            raise InputError(f"data.test_fraction lies in [0, 1); given {self.test_fraction}")
        check_at_least(self, "data.", views=0, classes=0)
        if not self.styles or len(set(self.styles)) < len(self.styles):
            raise InputError(f"data.styles names at least one style, each once; given {list(self.styles)}")

    @property
    def smallest_side(self) -> int:
        """An image whose short side has fewer pixels counts as broken."""
        return max(1, self.image_size // ENLARGED_AT_MOST)


class ImageSource(Protocol):
    """A finite, ordered set of images. Indexing reads one; no file stays open."""

    class_names: tuple[str, ...]
    """Names by label; empty when the source has no classes."""

    @property
    def listing(self) -> str:
        """A hash of the list of images, in order: equal lists have equal hashes."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """The centre of image ``index`` as (uint8 ``[H, W, C]``, label); the label is 0 without classes.

        Raises:
            UnreadableImageError: the image is broken or too small; others can still be read.
        """
        ...

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """The whole of image ``index`` in mode L or RGB, and its label; raises as indexing does."""
        ...


def captions_of(source: ImageSource) -> Sequence[str]:
    """What each image shows, in words; empty where a source has no captions."""
    return getattr(source, "captions", ())
