"""Editing in the space of codes: some are given, the others are sampled under them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from purrception.flow import (
    AUTOMATIC,
    Draws,
    Generation,
    KnownCodes,
    Objective,
    SamplingConfig,
    Watcher,
    no_watcher,
)
from purrception.generation.sampler import KeyedDraws, in_batches
from purrception.models import PurrceptionTransformer
from purrception.utils.devices import upload
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream


@dataclass(frozen=True)
class Editor:
    """Edits codes with a trained network. Edited image i depends on its codes and on (seed, i).

    All its methods take and give codes, long ``[B, h, w]``, and labels, long ``[B]``, of which
    ``network.num_classes`` is the null class: whatever fits what is given.
    """

    network: PurrceptionTransformer
    """In evaluation mode."""
    objective: Objective
    """What it was trained with."""
    settings: SamplingConfig
    """How to sample; of its grid the part after the start is used."""
    seed: int = 0
    """Of the noise."""
    batch_size: int = 64
    """Images at a time."""
    watch: Watcher = no_watcher
    """Told of every evaluation; it may raise, to stop."""
    conditioning: str = AUTOMATIC
    """How given tokens act on the free ones: posterior, resampling or replacement; auto: the objective's best."""

    def inpaint(self, indices: Tensor, free: Tensor, labels: Tensor, strength: float = 1.0) -> Generation:
        """Make the free sites anew under the others, which are held on their path at every time.

        Args:
            indices: codes of the images.
            free: sites that may change, bool ``[B, h, w]``; the others come back to the bit.
            labels: under which to fill them.
            strength: how much of the free sites is forgotten: 1 all of it, s starts on their path at t = 1 − s.

        Raises:
            InputError: nothing is free, or the strength is not in (0, 1].
        """
        if not bool(free.any()):
            raise InputError("there is nothing to make anew: every token is to be kept; free some of them")
        given = KnownCodes(indices, free, start=_start(strength), conditioning=self.conditioning)
        return self._generate(labels, given)

    def vary(self, indices: Tensor, labels: Tensor, strength: float) -> Generation:
        """Noise whole images to t = 1 − ``strength`` and come back: small is near the original, 1 forgets it.

        Raises:
            InputError: the strength is not in (0, 1].
        """
        return self.inpaint(indices, torch.ones_like(indices, dtype=torch.bool), labels, strength)

    def refine(self, made: Generation, labels: Tensor, threshold: float, strength: float = 0.5) -> Generation:
        """Make anew what a generation was unsure of: the tokens whose entropy is above ``threshold``, in nats.

        The others stay to the bit, and images without such tokens are not touched at all. Sampling starts at
        t = 1 − ``strength``, where the certain tokens already say what fits them. An image takes its new tokens
        only if the model is less unsure of them, on average, than it was of the old ones.

        Raises:
            InputError: the objective has no posterior, hence no entropy, or the threshold is negative.
        """
        if made.entropy is None:
            raise InputError("this model has no posterior, hence no entropy to refine by: take purrception or dfm")
        if not 0 <= threshold < math.inf:
            raise InputError(f"the threshold is an entropy in nats, at least 0; given {threshold}")
        uncertain = made.entropy > threshold
        rows = uncertain.flatten(1).any(1)
        if not bool(rows.any()):
            return replace(made, nfe=0)
        again = self.inpaint(made.indices[rows], uncertain[rows], labels[rows], strength)
        assert again.entropy is not None
        before = made.entropy.where(uncertain, 0)[rows].flatten(1).sum(1)
        surer = again.entropy.flatten(1).sum(1) < before  # 0 where a token was given
        taken = uncertain[rows] & surer[:, None, None]
        indices, entropy = made.indices.clone(), made.entropy.clone()
        indices[rows] = indices[rows].where(~taken, again.indices)
        entropy[rows] = entropy[rows].where(~taken, again.entropy)
        return Generation(indices, entropy, again.nfe)

    @torch.no_grad()
    def interpolate(self, labels: Tensor, other_seed: int) -> Generation:
        """From what ``seed`` draws first to what ``other_seed`` draws first, in ``len(labels)`` images.

        Noise goes along the great circle between the two (slerp), which keeps its length, so that every image
        starts from noise as likely as any. The ends are those seeds' own images, number 0.

        Raises:
            InputError: fewer than two images.
        """
        if len(labels) < 2:
            raise InputError(f"an interpolation has at least its two ends; given {len(labels)} images")
        weights = torch.linspace(0, 1, len(labels), dtype=torch.float64)

        def make(rows: range) -> Generation:
            draws = Slerp(
                KeyedDraws(self.seed, [0], self.network),
                KeyedDraws(other_seed, [0], self.network),
                weights[rows.start : rows.stop],
            )
            chosen = upload(labels[rows.start : rows.stop], self.network.device)
            return self.objective.generate(self.network, chosen, draws, self.settings, watch=self.watch)

        return in_batches(len(labels), self.batch_size, make)

    @torch.no_grad()
    def _generate(self, labels: Tensor, given: KnownCodes) -> Generation:
        """Each image under its label and what is given of it."""
        device = self.network.device

        def make(rows: range) -> Generation:
            here = slice(rows.start, rows.stop)
            part = replace(
                given, indices=upload(given.indices[here], device), free=upload(given.free[here], device)
            )
            draws = KeyedDraws(self.seed, rows, self.network, Stream.EDITING)
            chosen = upload(labels[here], device)
            return self.objective.generate(self.network, chosen, draws, self.settings, part, self.watch)

        return in_batches(len(labels), self.batch_size, make)


class Slerp:
    """Random numbers between those of two images, for a batch of ``weights`` ``[B]`` in [0, 1].

    Normal numbers go along the great circle of each image's whole noise. Uniform ones go the same way behind the
    normal distribution function, so that they stay uniform. At weight 0 and 1 they are the two images' own.
    """

    def __init__(self, first: Draws, second: Draws, weights: Tensor) -> None:
        self._first, self._second, self._weights = first, second, weights

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        return self._between(self._first.normal(step), self._second.normal(step))

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        a, b = self._first.uniform(step), self._second.uniform(step)
        normal = self._between(*(torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9)) for u in (a, b)))
        mixed = torch.special.ndtr(normal).float().clamp(max=1 - 2**-24)
        weights = self._weights.to(mixed.device).view(-1, 1, 1)
        return torch.where(weights == 0, a, torch.where(weights == 1, b, mixed))

    def _between(self, a: Tensor, b: Tensor) -> Tensor:
        """``[1, …]`` and ``[1, …]`` → ``[B, …]``, in float64 and back."""
        one, other = a.double().flatten(), b.double().flatten()
        cosine = (one @ other / (one.norm() * other.norm())).clamp(-1, 1)
        angle = cosine.acos()
        weights = self._weights.to(one.device).view(-1, 1)
        if float(angle.sin()) < 1e-6:  # one noise twice: nothing lies between
            shares = 1 - weights, weights
        else:
            shares = ((1 - weights) * angle).sin() / angle.sin(), (weights * angle).sin() / angle.sin()
        mixed = shares[0] * one + shares[1] * other
        return mixed.view(len(weights), *a.shape[1:]).to(a)


def free_sites(mask: np.ndarray, grid: tuple[int, int], margin: int = 0) -> Tensor:
    """Sites whose pixels a mask touches, bool ``[h, w]``.

    Encoder and decoder see beyond a token's own pixels, so its neighbours carry some of what was painted over;
    ``margin`` frees that many sites more in every direction.

    Args:
        mask: pixels that may change, bool ``[H, W]``, of whole sites.
        grid: (h, w).
        margin: in sites.

    Raises:
        InputError: the margin is negative.
    """
    if margin < 0:
        raise InputError(f"a margin is a number of tokens, at least 0; given {margin}")
    height, width = grid
    rows, columns = mask.shape[0] // height, mask.shape[1] // width
    free = torch.from_numpy(mask.reshape(height, rows, width, columns).any(axis=(1, 3)))
    grown = torch.nn.functional.max_pool2d(free[None].float(), 2 * margin + 1, stride=1, padding=margin)
    return grown[0] > 0


def _start(strength: float) -> float:
    if not 0 < strength <= 1:
        raise InputError(f"strength is above 0 (the original) and at most 1 (nothing of it); given {strength}")
    return 1 - strength
