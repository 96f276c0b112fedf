"""Measuring a sample of images, from which the recipe ``folder`` chooses its sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from purrception.data.config import DataConfig
from purrception.data.decoding import UnreadableImageError, bands
from purrception.data.sources import open_images, spread_rows
from purrception.utils.errors import InputError

SAMPLE = 100


@dataclass(frozen=True)
class Survey:
    """What a sample of the training images tells about all of them."""

    images: int
    """How many images the training split has."""
    classes: int
    """How many classes there are; 0 for an unconditional model."""
    short_side: int
    """The median of the images' short sides, in pixels."""
    grey: bool
    """Whether all images are grey."""

    @classmethod
    def of(cls, config: DataConfig) -> Survey:
        """Look at a random sample of up to a hundred training images.

        Raises:
            InputError: there are no images, or none of the sample can be read.
        """
        source = open_images(replace(config, image_size=8, channels=3), "train")
        if len(source) == 0:
            raise InputError("there are no training images: lower data.test_fraction or add images")
        sides, grey = [], True
        for index in spread_rows(len(source), SAMPLE):
            try:
                picture, _ = source.pil_image(int(index))
            except UnreadableImageError as error:
                broken = error
                continue
            sides.append(min(picture.size))
            grey = grey and all(bool((part == part[..., :1]).all()) for part in map(np.asarray, bands(picture)))
        if not sides:
            raise broken
        return cls(len(source), len(source.class_names), int(np.median(sides)), grey)
