"""The registry of image sources, each with a fixed split into training and test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data.builtin import DigitsImages, NoiseImages, PhotosImages
from purrception.data.config import BUILT_IN, PREFIXES, DataConfig, ImageSource, Split
from purrception.data.emoji import EmojiImages
from purrception.data.folder import FolderImages
from purrception.data.hub import HubImages, is_saved
from purrception.data.idx import IdxImages, is_idx
from purrception.data.transforms import images_to_tensor
from purrception.data.webdataset import COMPRESSED_SUFFIXES, TarImages
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

SOURCES: dict[str, Callable[[DataConfig, Split], ImageSource]] = {
    "digits": DigitsImages,
    "photos": PhotosImages,
    "emoji": EmojiImages,
    "folder": FolderImages,
    "idx": IdxImages,
    "webdataset": TarImages,
    "hub": HubImages,
    "noise": NoiseImages,
}


def open_images(config: DataConfig, split: Split) -> ImageSource:
    """Open one split of the images that ``config`` describes.

    Raises:
        InputError: the images are missing, or it is not clear which ones are meant.
    """
    if config.image_size == 0:
        raise InputError("data.image_size is 0, which only the recipe folder can choose: give it in pixels")
    return SOURCES[config.source](config, split)


def find_source(text: str) -> tuple[str, str]:
    """The (source, root) that the text of a command line means.

    ``digits``, ``photos`` and ``emoji`` are built in; ``emoji:DIR`` is emoji with styles from npm's packages in a
    folder. ``hub:NAME`` and folders that ``datasets`` saved are hub data sets. Text that ends in .tar, with or
    without wildcards and braces, means tars; so do the suffixes of compressed tars, which that source refuses with
    advice. A folder with IDX files is one of these. Everything else is a folder of images.
    """
    if text in BUILT_IN:
        return text, ""
    for prefix, source in PREFIXES.items():
        if text.startswith(prefix):
            return source, text.removeprefix(prefix)
    if text.lower().endswith((".tar", *COMPRESSED_SUFFIXES)):
        return "webdataset", text
    return ("hub" if is_saved(Path(text)) else "idx" if is_idx(Path(text)) else "folder"), text


def name_source(config: DataConfig) -> str:
    """The text from which :func:`find_source` finds these images."""
    for prefix, source in PREFIXES.items():
        if source == config.source and config.root:
            return prefix + config.root
    return config.source if config.source in BUILT_IN else config.root


def load_split(config: DataConfig, split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split: float32 ``[n, C, H, W]`` in [−1, 1], and their labels, long ``[n]``.

    Raises:
        InputError: the split holds fewer than two images; see also :func:`open_images`.
    """
    source = open_images(config, split)
    if len(source) < 2:
        raise InputError(f"the {split} split holds {len(source)} images; at least 2 are needed")
    arrays, labels = zip(*(source[i] for i in range(len(source))), strict=True)
    return images_to_tensor(arrays), torch.tensor(labels)


def spread_rows(size: int, count: int) -> np.ndarray:
    """A random subset of ``count`` of the row numbers below ``size``, rising and always the same; all if fewer.

    Images are often sorted by class, or classes take turns: the first few would be of one class, and every fifth
    of a fifth of the classes. A random subset does not depend on that order.
    """
    if count >= size:
        return np.arange(size)
    return np.sort(keyed_rng(0, Stream.SHUFFLE, part=1).choice(size, count, replace=False, shuffle=False))
