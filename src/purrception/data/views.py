"""Augmentation: which views of an image are encoded: its centre, its mirror image, or random crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from purrception.data.config import DataConfig, ImageSource
from purrception.data.transforms import scale_short_side
from purrception.utils.keyed_rng import Stream, keyed_rng

LARGEST_ENLARGEMENT = 1.25
"""How much an image is enlarged for a random crop, at most: a crop shows at least 1/1.25 of its short side."""


@dataclass(frozen=True)
class Views:
    """Which views of an image are encoded, each as one row."""

    crops: int = 0
    """How many random crops take the place of the centre; 0 for the centre itself."""
    flips: bool = False
    """Whether the centre is followed by its mirror image, or each crop is mirrored with probability ½."""
    size: int = 0
    """The side of a random crop, in pixels."""
    seed: int = 0
    """The seed of the crops: crop v of image i depends on (seed, i, v) alone."""

    @classmethod
    def of(cls, config: DataConfig, seed: int = 0) -> Views:
        """The views of a training image that ``config`` asks for."""
        return cls(config.views, config.flips, config.image_size, seed)

    @property
    def per_image(self) -> int:
        """The number of views of each image."""
        return self.crops or (2 if self.flips else 1)

    def read(self, source: ImageSource, index: int) -> tuple[np.ndarray, int]:
        """The views of image ``index`` as (uint8 ``[views, H, W, C]``, label).

        Raises:
            UnreadableImageError: the image is broken or too small.
        """
        if not self.crops:
            array, label = source[index]
            return np.stack([array, array[:, ::-1]] if self.flips else [array]), label
        picture, label = source.pil_image(index)
        return np.stack([self._crop(picture, index, view) for view in range(self.crops)]), label

    def _crop(self, picture: Image.Image, index: int, view: int) -> np.ndarray:
        rng = keyed_rng(self.seed, Stream.VIEWS, index, view)
        scaled = scale_short_side(picture, round(self.size * rng.uniform(1, LARGEST_ENLARGEMENT)))
        left, top = (int(rng.integers(side - self.size + 1)) for side in scaled.size)
        array = np.asarray(scaled.crop((left, top, left + self.size, top + self.size)), dtype=np.uint8)
        array = array.reshape(self.size, self.size, -1)
        return array[:, ::-1] if self.flips and rng.random() < 0.5 else array
