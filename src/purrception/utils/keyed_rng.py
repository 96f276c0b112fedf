"""Random numbers that depend only on a key.

Every draw in training and sampling is keyed by (seed, purpose, index of the image). The batch size, the number of
processes and interruptions therefore never change the numbers of an image, and a checkpoint needs no generator
state. Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) is a counter-based
generator: distinct keys give independent streams, and unlike a hash into a 32-bit seed two indices can never
collide.

There are two forms. :func:`keyed_rng` is NumPy's generator, for one image at a time on the CPU; images that people
have generated with a seed depend on it. :func:`keyed_uniform` and :func:`keyed_normal` draw for a whole batch with
tensor operations on the device of the batch, without copies or synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from purrception.utils.errors import InputError


class Stream(IntEnum):
    """The purpose of random numbers. The values are part of the reproducibility contract: only append."""

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
    STAND_IN = 10


def keyed_rng(seed: int, stream: Stream, index: int = 0, part: int = 0) -> np.random.Generator:
    """A generator for ``(seed, stream, index, part)``; equal keys give equal numbers on every machine.

    Args:
        seed: the seed of the run or of the sampler, 0 to 2⁶⁴ − 1.
        stream: the purpose of the numbers.
        index: the number of the image, sample or epoch, 0 to 2⁶⁴ − 1.
        part: which of several independent draws for that index.
    """
    _check_seed(seed)
    bit_generator = np.random.Philox(key=[seed, int(stream)], counter=[0, 0, part, index])
    return np.random.Generator(bit_generator)


def keyed_uniform(seed: int, stream: Stream, indices: Tensor, shape: Sequence[int], part: int = 0) -> Tensor:
    """Uniform in [0, 1), float32 ``[B, *shape]``: row i depends on ``(seed, stream, indices[i], part)`` alone.

    See :func:`keyed_normal` for the arguments. The numbers, multiples of 2⁻²⁴, are the same on every device.
    """
    words = _words(seed, stream, indices, math.prod(shape), part)
    return ((words >> 8).float() * 2**-24).view(-1, *shape)


def keyed_normal(seed: int, stream: Stream, indices: Tensor, shape: Sequence[int], part: int = 0) -> Tensor:
    """Standard normal, float32 ``[B, *shape]``: row i depends on ``(seed, stream, indices[i], part)`` alone.

    The Box–Muller transform is computed in float64. Devices, whose logarithms and cosines differ in the last bit
    of a float64, therefore agree except for about one number in 2²⁸, which differs in the last bit of a float32.

    Args:
        seed: the seed, 0 to 2⁶⁴ − 1.
        stream: the purpose of the numbers.
        indices: the numbers of the images or samples, long ``[B]``; the result is on their device.
        shape: the shape of one row.
        part: which of several independent draws for an index, 0 to 2²⁴ − 1.
    """
    count = math.prod(shape)
    first, second = _words(seed, stream, indices, count + count % 2, part).double().unflatten(1, (-1, 2)).unbind(2)
    radius = first.add_(0.5).mul_(2**-32).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi * 2**-32)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2)
    return pairs.float().flatten(1)[:, :count].reshape(-1, *shape)


_WORD = 2**32 - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Sequence[Tensor | int], key: Sequence[int]) -> list[Tensor]:
    """Philox4x32-10: four 32-bit words of a counter and two of a key → four random words.

    Words are stored in int64; the product of two of them wraps around to the right 64 bits. The tensors in
    ``counter`` broadcast against each other.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (right >> 32) & _WORD ^ c1 ^ k0, right & _WORD
        c2, c3 = (left >> 32) & _WORD ^ c3 ^ k1, left & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return [torch.as_tensor(word) for word in (c0, c1, c2, c3)]


def _words(seed: int, stream: Stream, indices: Tensor, count: int, part: int) -> Tensor:
    """``count`` 32-bit words for each index, in int64 ``[B, count]``."""
    _check_seed(seed)
    blocks = torch.arange(-(-count // 4), device=indices.device)
    rows = indices[:, None]
    counter = (blocks, part << 8 | int(stream), rows & _WORD, rows >> 32 & _WORD)
    words = philox(counter, (seed & _WORD, seed >> 32))
    return torch.stack(torch.broadcast_tensors(*words), dim=2).flatten(1)[:, :count]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise InputError(f"a seed lies in [0, 2⁶⁴); given {seed}")
