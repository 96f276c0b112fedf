"""The order in which training visits rows: a global shuffle without state, the same for any number of
processes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

ROUNDS = 8
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MIX_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class ShuffledOrder:
    """The endless order in which training visits ``size`` rows: a fresh permutation every epoch.

    A position n ≥ 0 counts the samples since the start of the run, over all processes. It is the whole state, so
    that resuming needs only the number of samples seen. No permutation is stored: a Feistel network keyed by
    (seed, epoch) permutes [0, 4^b), and is applied again as long as its result is outside [0, size), which makes
    it a permutation of [0, size). Memory does not depend on ``size``. Several threads may use it at the same time.
    """

    def __init__(self, size: int, seed: int) -> None:
        if not 1 <= size < 2**62:
            raise InputError(f"there must be rows to shuffle; given {size}")
        self.size, self.seed = size, seed
        half = max(1, -(-(size - 1).bit_length() // 2))
        self._half, self._mask = np.uint64(half), np.uint64(2**half - 1)

    def rows(self, start: int, count: int) -> np.ndarray:
        """The row numbers at positions ``start`` to ``start + count − 1``, which may span epochs."""
        rows = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, offset = divmod(start + filled, self.size)
            length = min(count - filled, self.size - offset)
            rows[filled : filled + length] = self._permute(epoch, offset, length)
            filled += length
        return rows

    def _permute(self, epoch: int, offset: int, count: int) -> np.ndarray:
        keys = _round_keys(self.seed, epoch)
        values = self._feistel(np.arange(offset, offset + count, dtype=np.uint64), keys)
        while (outside := values >= self.size).any():
            values[outside] = self._feistel(values[outside], keys)
        return values.astype(np.int64)

    def _feistel(self, values: np.ndarray, keys: tuple[np.uint64, ...]) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int) -> tuple[np.uint64, ...]:
    return tuple(keyed_rng(seed, Stream.SHUFFLE, epoch).integers(2**64, size=ROUNDS, dtype=np.uint64))


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every input bit changes every output bit with probability ½."""
    values = values * MULTIPLIER
    values = (values ^ (values >> np.uint64(30))) * MIX_MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * MIX_MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))


def rank_share(start: int, count: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part of the positions ``start`` to ``start + count − 1`` that one process reads, as (start, count).

    The parts of all processes, in order, are the whole. The samples therefore depend only on the global position,
    and a run can be resumed with another number of processes.

    Raises:
        InputError: the world size does not divide ``count``.
    """
    if count % world_size:
        raise InputError(f"the number of processes must divide the batch; given {world_size} and {count}")
    share = count // world_size
    return start + rank * share, share
