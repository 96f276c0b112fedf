"""Random numbers that depend on a key alone.

Every draw in training and sampling is keyed by (seed, what it is for, index of the image). A batch size, a
number of processes or a resumed run therefore never changes what an image receives, and a checkpoint needs
no generator state. Philox is a counter-based generator: distinct keys give independent streams, and unlike
a hash into a 32-bit seed two indices can never collide.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from purrception.errors import InputError


class Stream(IntEnum):
    """What random numbers are drawn for. Values are part of the reproducibility contract: only append."""

    TRAINING = 0
    SHUFFLE = 1
    SAMPLING = 2
    VALIDATION = 3
    TOKENIZER = 4
    CLASSIFIER = 5
    VIEWS = 6
    MADE_UP = 7
    EDITING = 8
    EVALUATION = 9


def keyed_rng(seed: int, stream: Stream, index: int = 0, part: int = 0) -> np.random.Generator:
    """A generator for ``(seed, stream, index, part)``; equal keys give equal numbers on every machine.

    Args:
        seed: the run's or the sampler's seed, 0 to 2⁶⁴ − 1.
        stream: what the numbers are for.
        index: number of the image, sample or epoch, 0 to 2⁶⁴ − 1.
        part: which of several independent draws for that index.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"a seed lies in [0, 2⁶⁴); given {seed}")
    bit_generator = np.random.Philox(key=[seed, int(stream)], counter=[0, 0, part, index])
    return np.random.Generator(bit_generator)
