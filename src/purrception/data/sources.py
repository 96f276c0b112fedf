"""The registry of image sources, each with a fixed train/test split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data.config import DataConfig, ImageSource, Split
from purrception.data.embedded import DigitsImages, NoiseImages, PhotosImages
from purrception.data.folder import FolderImages
from purrception.data.hub import HubImages, is_saved
from purrception.data.transforms import images_to_tensor
from purrception.data.webdataset import COMPRESSED_SUFFIXES, TarImages
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

SOURCES: dict[str, Callable[[DataConfig, Split], ImageSource]] = {
    "digits": DigitsImages,
    "photos": PhotosImages,
    "folder": FolderImages,
    "webdataset": TarImages,
    "hub": HubImages,
    "noise": NoiseImages,
}
EMBEDDED = ("digits", "photos")


def open_images(config: DataConfig, split: Split) -> ImageSource:
    """Open one split of the images that ``config`` names.

    Raises:
        InputError: the images are missing, or do not form one clear set.
    """
    if config.image_size == 0:
        raise InputError("data.image_size is 0, which only the recipe folder can choose: give it in pixels")
    return SOURCES[config.source](config, split)


def find_source(text: str) -> tuple[str, str]:
    """What a person names, as (source, root).

    ``digits`` and ``photos`` are embedded; ``hub:NAME`` or a folder that ``datasets`` saved is a hub data set;
    anything that ends in .tar, with or without wildcards and braces, is tars, as are compressed ones, which their
    source refuses; the rest is a folder.
    """
    if text in EMBEDDED:
        return text, ""
    if text.startswith("hub:"):
        return "hub", text.removeprefix("hub:")
    if text.lower().endswith((".tar", *COMPRESSED_SUFFIXES)):
        return "webdataset", text
    return ("hub" if is_saved(Path(text)) else "folder"), text


def name_source(config: DataConfig) -> str:
    """What a person would name these images by: :func:`find_source` gives source and root back."""
    if config.source in EMBEDDED:
        return config.source
    return f"hub:{config.root}" if config.source == "hub" else config.root


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


def spread_rows(size: int, count: int) -> np.ndarray:
    """``count`` of ``size`` row numbers, drawn by a key and rising; all of them where there are no more.

    Images come class by class, or classes take turns: the first few would be of one class, and every fifth of a
    fifth of the classes. A draw knows no order; equal sizes and counts always give the same rows.
    """
    if count >= size:
        return np.arange(size)
    return np.sort(keyed_rng(0, Stream.SHUFFLE, part=1).choice(size, count, replace=False, shuffle=False))
