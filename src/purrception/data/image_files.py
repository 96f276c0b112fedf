"""What all sources of image files share: decoding, cropping, and a split that adding images does not change."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from purrception.data.config import DataConfig, ImageSource, Split
from purrception.data.decoding import UnreadableImageError, decode_image
from purrception.data.labels import Label
from purrception.data.skip_report import Skipped
from purrception.data.transforms import pad_if_small, pil_to_array
from purrception.utils.errors import InputError
from purrception.utils.folders import check_name


class ImageFiles(ImageSource, ABC):
    """A source of image files, which are decoded when they are asked for."""

    class_names: tuple[str, ...] = ()
    ignored_files: Sequence[Skipped] = ()
    """Files among the images that are not used; listed with the training split only."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    def number_of(self, label: Label, index: int) -> int:
        """The class number that a label stands for; 0 without classes.

        Raises:
            UnreadableImageError: there are classes, and image ``index`` has no label.
        """
        if not self.class_names:
            return 0
        if label is None:
            raise UnreadableImageError(self.name(index), "it has no label, while others have one")
        found = self._numbers.get(str(label))
        return int(label) if found is None else found  # of classes that the images only number

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    @abstractmethod
    def name(self, index: int) -> str:
        """The name by which a person finds image ``index``."""

    @abstractmethod
    def read(self, index: int) -> tuple[bytes | Path, int]:
        """The content or path of image ``index``, and its label."""

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """The whole of image ``index`` in mode L or RGB, and its label."""
        data, label = self.read(index)
        config = self.config
        picture = decode_image(data, self.name(index), config.channels, config.smallest_side)
        return pad_if_small(picture, config), label

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture, label = self.pil_image(index)
        return pil_to_array(picture, self.config.image_size, self.config.channels), label


def in_split(key: str, split: Split, test_fraction: float) -> bool:
    """Whether the image with that key belongs to the split.

    A hash of the key decides, so that adding images never moves another image to the other split.
    """
    return (key_number(key) < test_fraction * 2**64) == (split == "test")


def key_number(key: str) -> int:
    """A number of 64 bits that depends on the key alone: its hash."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def hash_names(names: Iterable[str]) -> str:
    """A hash of names in their order, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def expected_classes(found: tuple[str, ...], config: DataConfig) -> tuple[str, ...]:
    """The class names to use: none for ``classes`` 0, else those found, or configured where these are numbers.

    Raises:
        InputError: there are not as many as ``classes`` or ``class_names`` says, or a name is not valid text.
    """
    if config.classes == 0:
        return ()
    if names := config.class_names:
        if len(names) != len(found):
            raise InputError(
                f"data.class_names gives {len(names)} names; the images in {config.root} have {len(found)} "
                f"classes: {', '.join(found[:12]) or 'none'}{', …' if len(found) > 12 else ''}"
            )
        if found == tuple(map(str, range(len(found)))):
            found = names
    for name in found:
        check_name(name)
    if config.classes is not None and len(found) != config.classes:
        raise InputError(
            f"{config.root} holds {len(found)} classes; data.classes says {config.classes}: "
            "complete the images, or change it"
        )
    return found
