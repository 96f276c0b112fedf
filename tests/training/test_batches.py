"""The stream of training batches, made ahead of time or not."""

from __future__ import annotations

from pathlib import Path

import torch

from purrception.models import PurrceptionTransformer
from purrception.tokens import TokenDataset
from purrception.training.batches import Prefetcher, TrainingBatches, blank_batch


def test_batches_made_ahead_are_those_of_the_stream_in_any_order(tiny_run: Path) -> None:
    stream = TrainingBatches(TokenDataset(tiny_run / "tokens" / "train"), seed=3, label_dropout=0.5)
    prefetcher = Prefetcher(stream, torch.device("cpu"))
    for position, count in ((0, 4), (4, 4), (8, 4), (0, 4), (4, 2), (6, 4), (100, 4)):
        made, expected = prefetcher.batch(position, count), stream.batch(position, count)
        for name in ("indices", "labels", "noise", "time"):
            assert torch.equal(getattr(made, name), getattr(expected, name))


def test_a_blank_batch_has_the_shapes_of_a_real_one(tiny_run: Path) -> None:
    real = TrainingBatches(TokenDataset(tiny_run / "tokens" / "train"), seed=3, label_dropout=0.5).batch(0, 4)
    network = PurrceptionTransformer.from_pretrained(tiny_run / "pipeline" / "transformer")
    with torch.device("meta"):
        blank = blank_batch(network, 4)
    for name in ("indices", "labels", "noise", "time"):
        assert getattr(blank, name).shape == getattr(real, name).shape
        assert getattr(blank, name).dtype == getattr(real, name).dtype
        assert getattr(blank, name).device.type == "meta"
