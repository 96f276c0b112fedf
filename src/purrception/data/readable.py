"""Images of a source for those who need any number of them, whichever are broken."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from purrception.data.config import ImageSource
from purrception.data.decoding import UnreadableImageError
from purrception.data.skipped import NothingReadableError, Skipped
from purrception.data.sources import spread_rows
from purrception.utils.keyed_rng import Stream, keyed_rng


class ReadableImages:
    """A source's images, where another one, always the same, stands in for each that cannot be read.

    Args:
        source: the images.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self._broken: dict[int, Skipped] = {}
        self._stand_ins: dict[int, int] = {}

    @property
    def skipped(self) -> list[Skipped]:
        """The images that were asked for and could not be read."""
        return list(self._broken.values())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image ``index`` or its stand-in, as (uint8 ``[H, W, C]``, label).

        Raises:
            NothingReadableError: no image of the source can be read.
        """
        index = self._stand_ins.get(index, index)
        if found := self._try(index):
            return found
        # An order of its own for each: the neighbours of a damaged class are not drawn more often than others.
        for other in keyed_rng(0, Stream.STAND_IN, index).permutation(len(self)).tolist():
            if found := self._try(other):
                self._stand_ins[index] = other
                return found
        raise NothingReadableError(f"the {len(self)} images", next(iter(self._broken.values())))

    def readable(self, rows: Iterable[int]) -> np.ndarray:
        """Those of ``rows`` that can be read, int64."""
        return np.asarray([row for row in map(int, rows) if self._try(row)], dtype=np.int64)

    def spread(self, count: int) -> list[np.ndarray]:
        """Those of ``count`` images, drawn by a key, that can be read, each uint8 ``[H, W, C]``."""
        return [found[0] for row in spread_rows(len(self), count) if (found := self._try(int(row)))]

    def _try(self, index: int) -> tuple[np.ndarray, int] | None:
        if index in self._broken:
            return None
        try:
            return self.source[index]
        except UnreadableImageError as error:
            self._broken[index] = Skipped.of(error)
            return None
