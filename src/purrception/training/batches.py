"""Training batches: codes with noise, time and label dropout, keyed by the sample's position."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import torch

from purrception import processes
from purrception.data import spread_rows
from purrception.flow import TimeSampling, TrainingBatch
from purrception.keyed_rng import Stream, keyed_rng
from purrception.tokens import ShuffledOrder, TokenDataset, rank_share


class TrainingBatches:
    """The endless stream of training samples.

    Sample n of the stream receives its row, noise, time and dropout from (seed, n) alone, so that neither
    microbatches nor a resumed run change them.

    Args:
        dataset: token shards.
        seed: of the run.
        label_dropout: probability of the null class, where there are classes.
        times: what becomes of the uniform number drawn for a sample's time; default: it is the time.
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
        """Row numbers of samples ``position`` to ``position + count − 1``."""
        return self._order.rows(position, count)

    def batch(self, position: int, count: int) -> TrainingBatch:
        """Samples ``position`` to ``position + count − 1`` of the stream, on the CPU."""
        indices, labels = self.dataset.rows(self.rows(position, count))
        noise = np.empty((count, *self._shape), dtype=np.float32)
        time = np.empty(count, dtype=np.float32)
        for i in range(count):
            rng = keyed_rng(self.seed, Stream.TRAINING, position + i)
            time[i] = rng.random(dtype=np.float32)
            if rng.random() < self._label_dropout:
                labels[i] = self._null_label
            rng.standard_normal(out=noise[i], dtype=np.float32)
        made = TrainingBatch(*(torch.from_numpy(array) for array in (indices, labels, noise, time)))
        return replace(made, time=self._times(made.time))


class BatchesAhead:
    """This process's share of each batch, on its device; the next one is made while the present one is learned.

    What a batch holds depends on its position in the stream alone, so that neither making it early nor sharing it
    changes anything.

    Args:
        batches: the stream.
        device: where batches go; on the way to a GPU they lie in pinned memory.
    """

    def __init__(self, batches: TrainingBatches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, int, Future[TrainingBatch]] | None = None

    def batch(self, position: int, count: int) -> TrainingBatch:
        """Of samples ``position`` to ``position + count − 1`` those of this process; what follows is begun.

        Raises:
            InputError: the number of processes does not divide ``count``.
        """
        ahead, self._next = self._next, None
        if ahead is not None and ahead[:2] == (position, count):
            made = ahead[2].result()
        else:
            made = self._make(position, count)
        following = position + count
        self._next = following, count, self._thread.submit(self._make, following, count)
        return to_device(made, self._device)

    def _make(self, position: int, count: int) -> TrainingBatch:
        batch = self._batches.batch(*rank_share(position, count, processes.rank(), processes.count()))
        if self._device.type != "cuda":
            return batch
        return TrainingBatch(*(getattr(batch, field.name).pin_memory() for field in fields(batch)))


def validation_batch(dataset: TokenDataset, seed: int, start: int, count: int, rows: int) -> TrainingBatch:
    """Samples ``start`` to ``start + count − 1`` of ``rows`` evenly spread ones, on the CPU.

    A row's noise depends on (seed, row) alone. Sample n is seen at t = frac(n·φ), the golden-ratio sequence: every
    prefix covers [0, 1) evenly.
    """
    chosen = spread_rows(len(dataset), rows)[start : start + count]
    indices, labels = dataset.rows(chosen)
    shape = (dataset.manifest.codebook_dim, *dataset.manifest.grid)
    noise = np.stack(
        [keyed_rng(seed, Stream.VALIDATION, int(row)).standard_normal(shape, dtype=np.float32) for row in chosen]
    )
    golden = (5**0.5 - 1) / 2
    time = (np.arange(start, start + len(chosen)) * golden % 1.0).astype(np.float32)
    return TrainingBatch(*(torch.from_numpy(array) for array in (indices, labels, noise, time)))


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """The batch on ``device``."""
    tensors = (batch.indices, batch.labels, batch.noise, batch.time)
    return TrainingBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors))
