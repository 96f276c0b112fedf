"""A look at somebody's images, before sizes are chosen for them."""

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
    """What a sample of the training images shows."""

    images: int
    """In the training split."""
    classes: int
    """0: unconditional."""
    short_side: int
    """Median, pixels."""
    grey: bool
    """Whether no image has any colour."""

    @classmethod
    def of(cls, config: DataConfig) -> Survey:
        """Look at up to a hundred training images, drawn by a key.

        Raises:
            InputError: there are none, or none of the sample can be read.
        """
        source = open_images(replace(config, image_size=8, channels=3), "train")
        if len(source) == 0:
            raise InputError("there are no training images: lower data.test_fraction or add images")
        sides, grey = [], True
        for index in spread_rows(len(source), SAMPLE):
            try:
                picture, _ = source.picture(int(index))
            except UnreadableImageError as error:
                broken = error
                continue
            sides.append(min(picture.size))
            grey = grey and all(bool((part == part[..., :1]).all()) for part in map(np.asarray, bands(picture)))
        if not sides:
            raise broken
        return cls(len(source), len(source.class_names), int(np.median(sides)), grey)
