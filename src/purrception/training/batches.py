"""Training batches: codes with noise, time and label dropout, keyed by the sample's position."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.flow import TimeSampling, TrainingBatch
from purrception.tokens import ShuffledOrder, TokenDataset, rank_share
from purrception.utils import distributed
from purrception.utils.devices import upload
from purrception.utils.keyed_rng import Stream, keyed_normal, keyed_rng, keyed_uniform


class TrainingBatches:
    """The endless stream of training samples.

    Sample n of the stream receives its row, noise, time and dropout from (seed, n) alone, so that neither
    microbatches nor a resumed run change them, nor the device on which they are drawn.

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

    def codes(self, position: int, count: int) -> tuple[Tensor, Tensor]:
        """Indices, long ``[count, h, w]``, and labels, long ``[count]``, as the shards hold them; on the CPU."""
        indices, labels = self.dataset.rows(self.rows(position, count))
        return torch.from_numpy(indices), torch.from_numpy(labels)

    def with_draws(self, indices: Tensor, labels: Tensor, position: int) -> TrainingBatch:
        """The batch of these codes, which begin at ``position``; what is random is drawn on their device."""
        numbers = torch.arange(position, position + len(labels), device=labels.device)
        chances = keyed_uniform(self.seed, Stream.TRAINING, numbers, (2,))
        return TrainingBatch(
            indices=indices,
            labels=labels.masked_fill(chances[:, 1] < self._label_dropout, self._null_label),
            noise=keyed_normal(self.seed, Stream.TRAINING, numbers, self._shape, part=1),
            time=self._times(chances[:, 0]),
        )

    def batch(self, position: int, count: int) -> TrainingBatch:
        """Samples ``position`` to ``position + count − 1`` of the stream, on the CPU."""
        return self.with_draws(*self.codes(position, count), position)


class BatchesAhead:
    """This process's share of each batch, on its device; the next one is made while the present one is learned.

    What a batch holds depends on its position in the stream alone, so that neither making it early nor sharing it
    changes anything. Only codes travel to a GPU, from pinned memory, so that nothing waits for them; all that is
    random is drawn there.

    Args:
        batches: the stream.
        device: where batches go.
    """

    def __init__(self, batches: TrainingBatches, device: torch.device) -> None:
        self._batches, self._device = batches, torch.empty(0, device=device).device  # "cuda" is cuda:0 in a thread
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
        return made

    def _make(self, position: int, count: int) -> TrainingBatch:
        start, share = rank_share(position, count, distributed.rank(), distributed.count())
        with torch.cuda.device(self._device if self._device.type == "cuda" else -1):  # −1: of no effect
            indices, labels = (upload(tensor, self._device) for tensor in self._batches.codes(start, share))
            return self._batches.with_draws(indices, labels, start)


def validation_batch(dataset: TokenDataset, seed: int, start: int, count: int, rows: int) -> TrainingBatch:
    """Samples ``start`` to ``start + count − 1`` of ``rows`` ones drawn by a key, on the CPU.

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
    return TrainingBatch(*(upload(getattr(batch, field.name), device) for field in fields(batch)))
