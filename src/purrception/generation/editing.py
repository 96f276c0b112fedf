"""Editing codes: some sites of an image keep their codes, the others are sampled conditioned on them."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Edits codes with a trained network. Edited image i depends on its codes and label, and on (seed, i).

    Codes are long ``[B, h, w]`` and labels long ``[B]``, where ``network.num_classes`` is the null class.
    """

    network: PurrceptionTransformer
    """The network, in evaluation mode."""
    objective: Objective
    """The objective it was trained with."""
    settings: SamplingConfig
    """How to sample; an edit that starts later than t = 0 uses the timesteps after its start."""
    seed: int = 0
    """Seed of the noise."""
    batch_size: int = 64
    """Images at a time."""
    watch: Watcher = no_watcher
    """Called at every evaluation; it may raise an exception to stop."""
    conditioning: str = AUTOMATIC
    """How the known tokens act on the free ones: posterior, resampling or replacement; auto takes the objective's
    best."""

    def inpaint(self, indices: Tensor, free: Tensor, labels: Tensor, strength: float = 1.0) -> Generation:
        """Sample the free sites again, conditioned on the others, which are held on their path at every time.

        Args:
            indices: codes of the images.
            free: sites that may change, bool ``[B, h, w]``; the others keep exactly their codes.
            labels: classes of the edited images.
            strength: how much of the free sites is forgotten: with s, sampling starts on their path at t = 1 − s.

        Raises:
            InputError: no site is free, or the strength is not in (0, 1].
        """
        if not bool(free.any()):
            raise InputError("there is nothing to sample: every token is kept; free some of them")
        if not 0 < strength <= 1:
            raise InputError(
                f"strength is above 0 (keep the original) and at most 1 (forget it); given {strength}"
            )
        known = KnownCodes(indices, free, start=1 - strength, conditioning=self.conditioning)
        return self._generate(
            labels, lambda rows: KeyedDraws(self.seed, rows, self.network, Stream.EDITING), known
        )

    def vary(self, indices: Tensor, labels: Tensor, strength: float) -> Generation:
        """Noise whole images to t = 1 − ``strength`` and sample from there: a small strength stays near them.

        Raises:
            InputError: the strength is not in (0, 1].
        """
        return self.inpaint(indices, torch.ones_like(indices, dtype=torch.bool), labels, strength)

    def refine(
        self, generation: Generation, labels: Tensor, threshold: float, strength: float = 0.5
    ) -> Generation:
        """Sample the uncertain tokens again: those whose last entropy is above ``threshold``, in nats.

        All other tokens keep exactly their codes. Sampling starts at t = 1 − ``strength``, where the certain
        tokens already inform the others. An image takes its new tokens only if their mean entropy is lower than
        that of the old ones.

        Raises:
            InputError: the objective has no posterior, hence no entropy, or the threshold is negative.
        """
        if generation.entropy is None:
            raise InputError(
                "this model has no posterior, and so no entropy to refine by: use a purrception or dfm model"
            )
        if not 0 <= threshold < math.inf:
            raise InputError(f"the threshold is an entropy in nats, at least 0; given {threshold}")
        uncertain = generation.entropy > threshold
        rows = uncertain.flatten(1).any(1)
        if not bool(rows.any()):
            return replace(generation, nfe=0)
        resampled = self.inpaint(generation.indices[rows], uncertain[rows], labels[rows], strength)
        assert resampled.entropy is not None
        before = generation.entropy.where(uncertain, 0)[rows].flatten(1).sum(1)
        better = resampled.entropy.flatten(1).sum(1) < before  # the entropy of a kept token is 0
        replaced = uncertain[rows] & better[:, None, None]

        def renewed(old: Tensor, new: Tensor) -> Tensor:
            whole = old.clone()
            whole[rows] = old[rows].where(~replaced, new)
            return whole

        old_path, new_path = generation.path_entropy, resampled.path_entropy
        return Generation(
            renewed(generation.indices, resampled.indices),
            renewed(generation.entropy, resampled.entropy),
            resampled.nfe,
            None if old_path is None or new_path is None else renewed(old_path, new_path),
        )

    def interpolate(self, labels: Tensor, other_seed: int) -> Generation:
        """Go from image 0 of ``seed`` to image 0 of ``other_seed`` in ``len(labels)`` images, both included.

        The noise follows the great circle between the two (slerp), which keeps its norm, so that every image
        starts from typical noise.

        Raises:
            InputError: fewer than two images.
        """
        if len(labels) < 2:
            raise InputError(f"an interpolation has at least its two ends; given {len(labels)} images")
        weights = torch.linspace(0, 1, len(labels), dtype=torch.float64)
        ends = [KeyedDraws(seed, [0], self.network) for seed in (self.seed, other_seed)]
        return self._generate(labels, lambda rows: Slerp(ends[0], ends[1], weights[rows.start : rows.stop]))

    @torch.no_grad()
    def _generate(
        self, labels: Tensor, draws: Callable[[range], Draws], known: KnownCodes | None = None
    ) -> Generation:
        """Sample each image under its label, and its known codes if any, from the random numbers of a batch."""

        def sample_batch(rows: range) -> Generation:
            def own(tensor: Tensor) -> Tensor:
                return upload(tensor[rows.start : rows.stop], self.network.device)

            batch = replace(known, indices=own(known.indices), free=own(known.free)) if known else None
            return self.objective.generate(
                self.network, own(labels), draws(rows), self.settings, batch, self.watch
            )

        return in_batches(range(len(labels)), self.batch_size, sample_batch)


class Slerp:
    """Random numbers between those of two images, for a batch of ``weights`` ``[B]`` in [0, 1].

    Normal numbers follow the great circle between the whole noise of the two images. Uniform numbers are mapped to
    normal ones, interpolated in the same way and mapped back, so that they stay uniform. At weights 0 and 1 the
    numbers are exactly those of the two images.
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
        angle = (one @ other / (one.norm() * other.norm())).clamp(-1, 1).acos()
        weights = self._weights.to(one.device).view(-1, 1)
        if float(angle.sin()) < 1e-6:  # equal or opposite noise has no unique great circle
            shares = 1 - weights, weights
        else:
            shares = ((1 - weights) * angle).sin() / angle.sin(), (weights * angle).sin() / angle.sin()
        mixed = shares[0] * one + shares[1] * other
        return mixed.view(len(weights), *a.shape[1:]).to(a)


def free_sites(mask: np.ndarray, grid: tuple[int, int], margin: int = 0) -> Tensor:
    """Sites whose pixels a mask touches, bool ``[h, w]``.

    The encoder and the decoder see beyond the pixels of a token, so the neighbours of a site carry some of its
    content; ``margin`` frees that many more sites in every direction.

    Args:
        mask: pixels that may change, bool ``[H, W]``; H and W are multiples of h and w.
        grid: (h, w), the shape of the latent.
        margin: number of sites.

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
