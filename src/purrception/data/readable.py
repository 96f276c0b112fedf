"""Images of a source with the broken ones replaced, for training at random and for samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from purrception.data.config import ImageSource
from purrception.data.decoding import UnreadableImageError
from purrception.data.skip_report import NothingReadableError, Skipped
from purrception.data.sources import spread_rows
from purrception.utils.keyed_rng import Stream, keyed_rng


class ReadableImages:
    """A source in which each image that cannot be read is replaced by another one, always the same.

    Args:
        source: the images.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self._broken: dict[int, Skipped] = {}
        self._replacements: dict[int, int] = {}

    @property
    def skipped(self) -> list[Skipped]:
        """The images that were asked for and cannot be read."""
        return list(self._broken.values())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image ``index`` or its replacement as (uint8 ``[H, W, C]``, label).

        Raises:
            NothingReadableError: no image of the source can be read.
        """
        index = self._replacements.get(index, index)
        if found := self._try(index):
            return found
        # Each has an order of its own, so that the neighbours of a damaged class are not drawn more often than
        # others.
        for other in keyed_rng(0, Stream.STAND_IN, index).permutation(len(self)).tolist():
            if found := self._try(other):
                self._replacements[index] = other
                return found
        raise NothingReadableError(f"the {len(self)} images", next(iter(self._broken.values())))

    def readable(self, rows: Iterable[int]) -> np.ndarray:
        """The numbers in ``rows`` of images that can be read, int64."""
        return np.asarray([row for row in map(int, rows) if self._try(row)], dtype=np.int64)

    def spread(self, count: int) -> list[np.ndarray]:
        """The readable images of a random subset of ``count``, each uint8 ``[H, W, C]``."""
        return [found[0] for row in spread_rows(len(self), count) if (found := self._try(int(row)))]

    def _try(self, index: int) -> tuple[np.ndarray, int] | None:
        if index in self._broken:
            return None
        try:
            return self.source[index]
        except UnreadableImageError as error:
            self._broken[index] = Skipped.of(error)
            return None
