"""Images that need no download: those inside scikit-learn, and noise for dry runs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from purrception.data.config import MODES, DataConfig, Split
from purrception.data.transforms import array_to_pil, pil_to_array
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng
from purrception.utils.packages import require


class DigitsImages:
    """The 1797 handwritten digits inside scikit-learn, 8×8 pixels scaled up bicubically.

    Every fifth image of a class is held out at the default ``test_fraction`` of 0.2.
    """

    class_names = tuple("0123456789")

    def __init__(self, config: DataConfig, split: Split) -> None:
        digits = require("sklearn.datasets", "the data source digits").load_digits()
        rank = np.zeros(len(digits.target), dtype=np.int64)  # number of the image within its class
        for label in range(10):
            members = np.flatnonzero(digits.target == label)
            rank[members] = np.arange(len(members))
        held_out = np.floor((rank + 1) * config.test_fraction) > np.floor(rank * config.test_fraction)
        chosen = np.flatnonzero(held_out == (split == "test"))
        self.listing = f"digits {split} {config.test_fraction}"
        self.labels = digits.target[chosen].astype(np.int64)
        grey = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self._pictures = [Image.fromarray(image).convert(MODES[config.channels]) for image in grey]
        self._config = config

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture, label = self.pil_image(index)
        return pil_to_array(picture, self._config.image_size, self._config.channels), label

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """Digit ``index`` in its original 8×8 pixels, and its label."""
        return self._pictures[index], int(self.labels[index])


class PhotosImages:
    """Crops of the two colour photographs inside scikit-learn: a pagoda and a dahlia.

    A window of 48×48 pixels moves over each photograph of 427×640 pixels in steps of 5, and is scaled to the size
    asked for. Three evenly spaced vertical strips of each photograph are held out. They run from top to bottom, so
    that both splits see sky, roofs, water and trees, or petals and leaves. A window inside a strip is a test crop,
    one that touches no strip is a training crop, and any other is dropped: the splits share no pixel.

    Raises:
        InputError: ``test_fraction`` leaves no room for a window in a strip, or beside the strips.
    """

    class_names: tuple[str, ...] = ("china", "flower")
    window = 48
    """The side of a crop in the photograph, in pixels."""
    stride = 5
    """The distance of neighbouring crops, in pixels; strips begin and end on multiples of it. In images of 32
    pixels it is 3⅓ pixels, so that a detail appears at every offset from the latent grid."""
    strips = 3
    """The number of held-out strips in each photograph."""

    def __init__(self, config: DataConfig, split: Split) -> None:
        load_sample_image = require("sklearn.datasets", "the data source photos").load_sample_image
        self._config = config
        self.listing = f"photos {split} {config.test_fraction}"
        self._photos = [Image.fromarray(load_sample_image(f"{name}.jpg")) for name in self.class_names]
        width, height = self._photos[0].size
        held_out = self._held_out(width)
        columns = [
            left
            for left in range(0, width - self.window + 1, self.stride)
            if (held_out[left : left + self.window] == (split == "test")).all()
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
        """(label, left, top) of each crop, in pixels of the photograph."""

    def _held_out(self, width: int) -> np.ndarray:
        """Whether each column of pixels is in a strip; there are equal gaps beside and between the strips."""
        held_out = np.zeros(width, dtype=bool)
        strip = self._to_stride(width * self._config.test_fraction / self.strips)
        between = (width - self.strips * strip) / (self.strips + 1)
        for number in range(self.strips):
            start = self._to_stride((1 + number) * between + number * strip)
            held_out[start : start + strip] = True
        return held_out

    def _to_stride(self, pixels: float) -> int:
        return round(pixels / self.stride) * self.stride

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        crop, label = self.pil_image(index)
        return pil_to_array(crop, self._config.image_size, self._config.channels), label

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """Crop ``index`` in its original 48×48 pixels, and its label."""
        label, left, top = self.crops[index]
        crop = self._photos[label].crop((left, top, left + self.window, top + self.window))
        return crop.convert(MODES[self._config.channels]), label


class NoiseImages:
    """A few images of random pixels, in as many classes as asked for, for dry runs."""

    def __init__(self, config: DataConfig, split: Split) -> None:
        self.class_names = config.class_names or tuple(map(str, range(config.classes or 0)))
        self.listing = f"noise {split}"
        self._config, self._first, self._count = config, *((0, 2) if split == "train" else (2, 1))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        size, channels = self._config.image_size, self._config.channels
        rng = keyed_rng(0, Stream.MADE_UP, self._first + index)
        image = rng.integers(0, 256, (size, size, channels), dtype=np.uint8)
        return image, index % max(len(self.class_names), 1)

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """Image ``index`` and its label."""
        array, label = self[index]
        return array_to_pil(array), label
