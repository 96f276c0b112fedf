"""Sampling codes from noise that is keyed by (seed, image), with their entropy and the number of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from purrception.flow import Draws, Generation, Objective, SamplingConfig, StepEnd, Watcher, no_watcher
from purrception.generation.cuda_graphs import Recording
from purrception.generation.scheduler import draw
from purrception.models import PurrceptionTransformer
from purrception.utils import distributed
from purrception.utils.devices import upload
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng


class KeyedDraws:
    """The random numbers of a batch of images; those of image i depend on (seed, stream, i) alone.

    Args:
        seed: the seed of the sampler.
        numbers: the numbers of the images in the batch.
        network: gives the shape of the latents, and the device.
        stream: the purpose of the numbers; different streams are independent.
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
        samples = [draw(keyed_rng(self._seed, self._stream, number, part)) for number in self._numbers]
        return upload(torch.from_numpy(np.stack(samples)), self._device)


class GeneratorDraws:
    """The random numbers of a batch of images from torch's generators, in the order in which they are asked for.

    Args:
        generator: one for all images, or one for each.
        count: number of images in the batch.
        network: gives the shape of the latents, and the device.
    """

    def __init__(
        self, generator: torch.Generator | list[torch.Generator], count: int, network: PurrceptionTransformer
    ) -> None:
        self._generator, self._device = generator, network.codebook.device
        self._shape = (count, network.codebook.shape[1], *network.grid)

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        return draw(torch.randn, self._shape, self._generator, self._device)

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        return draw(torch.rand, (self._shape[0], *self._shape[2:]), self._generator, self._device)


class GivenStart:
    """Random numbers of which the first, the start of the path, are given.

    Args:
        latents: the start, ``[B, D, h, w]``.
        draws: all other numbers.
    """

    def __init__(self, latents: Tensor, draws: Draws) -> None:
        self._latents, self._draws = latents, draws
        self.uniform = draws.uniform

    def normal(self, step: int) -> Tensor:
        """The given latents at step 0, else standard normal, float32 ``[B, D, h, w]``."""
        return self._latents if step == 0 else self._draws.normal(step)


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
    across_processes: bool = False,
    draws_of: Callable[[range], Draws] | None = None,
    step_end: StepEnd | None = None,
) -> Generation:
    """Sample the codes of the images ``first``, ``first`` + 1, …, one per label, in batches.

    Args:
        network: in evaluation mode.
        objective: the objective it was trained with.
        labels: long ``[n]``; ``network.num_classes`` is the null class.
        settings: how to sample.
        seed: image i depends on (seed, i) and its label alone.
        batch_size: images at a time.
        on_progress: called with the number of images that this process has finished.
        first: number of the first image.
        watch: called at every evaluation of every batch; it may raise an exception to stop.
        record: record the steps of the first batch and replay them for the others of its size
            (:class:`purrception.generation.cuda_graphs.Recording`); ``watch`` does not see replayed batches.
        across_processes: share the batches among all processes; each returns the codes of all images. Batches stay
            whole where there are enough of them, so that an image is computed in the same batch as in one process.
        draws_of: the random numbers of the images of these numbers; by default :class:`KeyedDraws` of the seed.
        step_end: called after each step of every batch; see :class:`purrception.flow.Objective`.

    Raises:
        InputError: settings that the objective or the network does not support, or that cannot be recorded.
    """
    if record and settings.solver == "dopri5":
        raise InputError("dopri5 chooses its steps from the data, so they cannot be recorded: use another solver")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; given {batch_size}")
    rows = range(len(labels))
    if across_processes:
        batch_size = max(1, min(batch_size, -(-len(rows) // distributed.count())))
        batches = distributed.share(-(-len(rows) // batch_size))
        rows = rows[batches.start * batch_size : batches.stop * batch_size]
    recording: Recording | None = None

    def generate(labels: Tensor, draws: Draws) -> Generation:
        with network.reduced_precision():
            return objective.generate(network, labels, draws, settings, watch=watch, step_end=step_end)

    def sample_batch(batch: range) -> Generation:
        nonlocal recording
        numbers = range(first + batch.start, first + batch.stop)
        draws = KeyedDraws(seed, numbers, network) if draws_of is None else draws_of(numbers)
        batch_labels = upload(labels[batch.start : batch.stop], network.device)
        if not record or len(batch) < batch_size or len(rows) < 2 * batch_size:
            return generate(batch_labels, draws)
        recording = recording or Recording(generate, batch_labels, draws)
        return recording(batch_labels, draws)

    if not across_processes:
        return in_batches(rows, batch_size, sample_batch, on_progress)
    own = in_batches(rows, batch_size, sample_batch, on_progress) if rows or not len(labels) else None
    return _join([part for part in distributed.gather(own) if part is not None])


def in_batches(
    rows: range,
    batch_size: int,
    sample_batch: Callable[[range], Generation],
    on_progress: Callable[[int], None] = lambda done: None,
) -> Generation:
    """Sample the images ``rows``, at most ``batch_size`` of them at a time.

    Raises:
        InputError: there are no rows.
    """
    if not rows:
        raise InputError("at least one image must be asked for; given none")
    parts = []
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        parts.append(sample_batch(batch))
        on_progress(begin + len(batch))
    return _join(parts)


def _join(parts: Sequence[Generation]) -> Generation:
    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present).cpu() if present else None

    return Generation(
        indices=torch.cat([part.indices for part in parts]).cpu(),
        entropy=joined([part.entropy for part in parts]),
        nfe=max(part.nfe for part in parts),
        path_entropy=joined([part.path_entropy for part in parts]),
    )
