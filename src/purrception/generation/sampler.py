"""Sampling without files: noise keyed by (seed, image) → codes, with uncertainty and the cost counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from purrception.flow import Draws, Generation, Objective, SamplingConfig, Watcher, no_watcher
from purrception.generation.cuda_graphs import Recording
from purrception.models import PurrceptionTransformer
from purrception.utils import distributed
from purrception.utils.devices import upload
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng


class KeyedDraws:
    """The random numbers of a batch of images; those of image i depend on (seed, stream, i) alone.

    Args:
        seed: of the sampler.
        numbers: of the images in the batch.
        network: whose latents they are for, and on whose device.
        stream: what they are for.
    """

    def __init__(
        self,
        seed: int,
        numbers: Sequence[int],
        network: PurrceptionTransformer,
        stream: Stream = Stream.SAMPLING,
    ) -> None:
        self._seed, self._numbers, self._stream = seed, numbers, stream
        self._grid, self._dim, self._device = network.grid, network.codebook.shape[1], network.codebook.device

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``; step 0 is the start of the path."""
        shape = (self._dim, *self._grid)
        return self._stack(2 * step, lambda rng: rng.standard_normal(shape, dtype=np.float32))

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        return self._stack(2 * step + 1, lambda rng: rng.random(self._grid, dtype=np.float32))

    def _stack(self, part: int, draw: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
        drawn = [draw(keyed_rng(self._seed, self._stream, number, part)) for number in self._numbers]
        return upload(torch.from_numpy(np.stack(drawn)), self._device)


@torch.no_grad()
def sample_codes(
    network: PurrceptionTransformer,
    objective: Objective,
    labels: Tensor,
    settings: SamplingConfig,
    seed: int,
    batch_size: int,
    on_progress: Callable[[int], None] = lambda done: None,
    first: int = 0,
    watch: Watcher = no_watcher,
    record: bool = False,
) -> Generation:
    """Codes of the images ``first``, ``first`` + 1, …, one per label, in batches.

    Args:
        network: in evaluation mode.
        objective: what it was trained with.
        labels: long ``[n]``; ``network.num_classes`` is the null class.
        settings: how to sample.
        seed: image i depends on (seed, i) alone.
        batch_size: images at a time.
        on_progress: told how many images are done.
        first: number of the first image.
        watch: told of every evaluation of every batch; it may raise, to stop.
        record: record the steps of the first batch and replay them for the others of its size
            (:class:`purrception.generation.cuda_graphs.Recording`), which nobody can watch.

    Raises:
        InputError: settings that the objective or the network cannot honour, or that cannot be recorded.
    """
    if record and settings.solver == "dopri5":
        raise InputError(
            "dopri5 chooses its steps by what it sees, so that they cannot be recorded: sample without"
        )
    recording: Recording | None = None

    def generate(chosen: Tensor, draws: Draws) -> Generation:
        with network.reduced_precision():
            return objective.generate(network, chosen, draws, settings, watch=watch)

    def make(rows: range) -> Generation:
        nonlocal recording
        draws = KeyedDraws(seed, range(first + rows.start, first + rows.stop), network)
        chosen = upload(labels[rows.start : rows.stop], network.device)
        if not record or len(rows) < batch_size or len(labels) < 2 * batch_size:
            return generate(chosen, draws)
        recording = recording or Recording(generate, chosen, draws)
        return recording(chosen, draws)

    return in_batches(len(labels), batch_size, make, on_progress)


def in_batches(
    count: int,
    batch_size: int,
    make: Callable[[range], Generation],
    on_progress: Callable[[int], None] = lambda done: None,
) -> Generation:
    """Images 0, …, ``count`` − 1, as ``make`` generates each range of at most ``batch_size`` of them.

    Raises:
        InputError: none are asked for, or batches of none.
    """
    if count == 0:
        raise InputError("at least one image must be asked for; given none")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; given {batch_size}")
    parts = []
    for begin in range(0, count, batch_size):
        rows = range(begin, min(begin + batch_size, count))
        parts.append(make(rows))
        on_progress(rows.stop)
    return _joined(parts)


def sample_distributed(
    network: PurrceptionTransformer,
    objective: Objective,
    labels: Tensor,
    settings: SamplingConfig,
    seed: int,
    batch_size: int,
    on_progress: Callable[[int], None] = lambda done: None,
    watch: Watcher = no_watcher,
    record: bool = False,
) -> Generation:
    """As :func:`sample_codes`, shared by all processes; each returns all codes.

    Whole batches are dealt out, as long as there are enough of them, so that an image is computed in the company
    it would have had in one process.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; given {batch_size}")
    batch_size = max(1, min(batch_size, -(-len(labels) // distributed.count())))
    batches = distributed.share(-(-len(labels) // batch_size))
    begin, end = batches.start * batch_size, min(batches.stop * batch_size, len(labels))
    own = None
    if begin < end or distributed.count() == 1:
        wanted = labels[begin:end]
        own = sample_codes(
            network, objective, wanted, settings, seed, batch_size, on_progress, begin, watch, record
        )
    return _joined([part for part in distributed.gather(own) if part is not None])


def _joined(parts: Sequence[Generation]) -> Generation:
    entropies = [part.entropy for part in parts if part.entropy is not None]
    return Generation(
        indices=torch.cat([part.indices for part in parts]).cpu(),
        entropy=torch.cat(entropies).cpu() if entropies else None,
        nfe=max(part.nfe for part in parts),
    )
