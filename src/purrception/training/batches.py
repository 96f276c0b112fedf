"""Training batches: codes with noise, time and label dropout, keyed by the position in the stream of samples."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.flow import TimeSampling, TrainingBatch
from purrception.models import PurrceptionTransformer
from purrception.tokens import ShuffledOrder, TokenDataset, rank_share
from purrception.utils import distributed
from purrception.utils.devices import upload
from purrception.utils.keyed_rng import Stream, keyed_normal, keyed_rng, keyed_uniform


class TrainingBatches:
    """The endless stream of training samples.

    The row, noise, time and dropout of sample n depend on (seed, n) alone, so that microbatches, resuming and the
    device change nothing.

    Args:
        dataset: token shards.
        seed: the seed of the run.
        label_dropout: probability of the null class, if there are classes.
        times: maps uniform numbers to times; default: the identity.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        seed: int,
        label_dropout: float,
        times: TimeSampling = TimeSampling(),  # noqa: B008
    ) -> None:
        self.dataset, self.seed, self._times = dataset, seed, times
        manifest = dataset.manifest
        self._null_label = manifest.num_classes
        self._label_dropout = label_dropout if manifest.num_classes else 0.0
        self._shape = (manifest.codebook_dim, *manifest.grid)
        self._order = ShuffledOrder(len(dataset), seed)

    def rows(self, position: int, count: int) -> np.ndarray:
        """Rows of the shards that hold samples ``position`` to ``position + count − 1``."""
        return self._order.rows(position, count)

    def codes(self, position: int, count: int) -> tuple[Tensor, Tensor]:
        """Indices, long ``[count, h, w]``, and labels, long ``[count]``, as stored in the shards, on the CPU."""
        indices, labels = self.dataset.rows(self.rows(position, count))
        return torch.from_numpy(indices), torch.from_numpy(labels)

    def with_draws(self, indices: Tensor, labels: Tensor, position: int) -> TrainingBatch:
        """The batch of these codes, the first at ``position``; noise, time and dropout are drawn on their
        device."""
        samples = torch.arange(position, position + len(labels), device=labels.device)
        uniform = keyed_uniform(self.seed, Stream.TRAINING, samples, (2,))
        return TrainingBatch(
            indices=indices,
            labels=labels.masked_fill(uniform[:, 1] < self._label_dropout, self._null_label),
            noise=keyed_normal(self.seed, Stream.TRAINING, samples, self._shape, part=1),
            time=self._times(uniform[:, 0]),
        )

    def batch(self, position: int, count: int) -> TrainingBatch:
        """Samples ``position`` to ``position + count − 1`` of the stream, on the CPU."""
        return self.with_draws(*self.codes(position, count), position)


class Prefetcher:
    """This process's share of each batch, on its device; the next batch is made during the current step.

    A batch depends on its position in the stream alone, so that neither prefetching nor sharing changes it. Only
    codes are copied to a GPU, asynchronously from pinned memory; noise, time and dropout are drawn there.

    Args:
        batches: the stream.
        device: the device of the batches.
    """

    def __init__(self, batches: TrainingBatches, device: torch.device) -> None:
        self._batches, self._device = batches, torch.empty(0, device=device).device  # "cuda" is cuda:0 in a thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, int, Future[TrainingBatch]] | None = None

    def batch(self, position: int, count: int) -> TrainingBatch:
        """This process's share of samples ``position`` to ``position + count − 1``; prefetch the following batch.

        Raises:
            InputError: ``count`` is not a multiple of the number of processes.
        """
        prefetched, self._next = self._next, None
        if prefetched is not None and prefetched[:2] == (position, count):
            batch = prefetched[2].result()
        else:
            batch = self._make(position, count)
        following = position + count
        self._next = following, count, self._thread.submit(self._make, following, count)
        return batch

    def _make(self, position: int, count: int) -> TrainingBatch:
        start, share = rank_share(position, count, distributed.rank(), distributed.count())
        with torch.cuda.device(self._device if self._device.type == "cuda" else -1):  # −1 has no effect
            indices, labels = (upload(tensor, self._device) for tensor in self._batches.codes(start, share))
            return self._batches.with_draws(indices, labels, start)


def validation_batch(dataset: TokenDataset, seed: int, start: int, count: int, rows: int) -> TrainingBatch:
    """Samples ``start`` to ``start + count − 1`` of ``rows`` samples that are drawn by a key, on the CPU.

    The noise of a row depends on (seed, row) alone. Sample n has the time frac(n·φ): every prefix of this
    golden-ratio sequence covers [0, 1) evenly.
    """
    numbers = spread_rows(len(dataset), rows)[start : start + count]
    indices, labels = dataset.rows(numbers)
    shape = (dataset.manifest.codebook_dim, *dataset.manifest.grid)
    noise = np.stack(
        [keyed_rng(seed, Stream.VALIDATION, int(row)).standard_normal(shape, dtype=np.float32) for row in numbers]
    )
    golden = (5**0.5 - 1) / 2
    time = (np.arange(start, start + len(numbers)) * golden % 1.0).astype(np.float32)
    return TrainingBatch(*(torch.from_numpy(array) for array in (indices, labels, noise, time)))


def training_twin(batch: TrainingBatch, train: TokenDataset, start: int, rows: int) -> TrainingBatch:
    """A batch of training images under the noise and the times of a batch of held-out ones, on the CPU.

    Losses of the two then differ by the images alone.

    Args:
        batch: held-out samples, see :func:`validation_batch`, whose ``start`` and ``rows`` are given as well.
        train: training shards; if they have fewer rows, these are repeated.
        start: number of the batch's first sample.
        rows: samples in all.
    """
    numbers = np.resize(spread_rows(len(train), rows), rows)[start : start + len(batch.labels)]
    indices, labels = train.rows(numbers)
    return replace(batch, indices=torch.from_numpy(indices), labels=torch.from_numpy(labels))


def blank_batch(network: PurrceptionTransformer, count: int) -> TrainingBatch:
    """A batch of zeros of the right shapes, for computations without numbers; on the default device."""
    return TrainingBatch(
        indices=torch.zeros(count, *network.grid, dtype=torch.long),
        labels=torch.zeros(count, dtype=torch.long),
        noise=torch.zeros(count, network.codebook.shape[1], *network.grid),
        time=torch.zeros(count),
    )


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """Copy a batch to ``device``."""
    return TrainingBatch(*(upload(getattr(batch, field.name), device) for field in fields(batch)))
