"""The two ends of the pipeline: batches from token shards, and images to codes and back."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from purrception.bench.config import BenchConfig
from purrception.flow import TrainingBatch
from purrception.tokens import Manifest, Shard, Standardisation, TokenDataset
from purrception.tokens.shards import shard_name, write_shard
from purrception.training.batches import TrainingBatches, to_device

if TYPE_CHECKING:
    from purrception.tokenizers import VQTokenizer

ROWS = 1024
"""Of the shard, or the file of embeddings, that is read."""


def load_batches(config: BenchConfig, images: int, device: torch.device) -> Callable[[], TrainingBatch]:
    """Rows of a shard in random order, with noise and times keyed by their place in the stream.

    One thread makes them, as in training, where it does so beside the step.
    """
    folder = tempfile.TemporaryDirectory()
    dataset = TokenDataset(_write_tokens(config, Path(folder.name)))
    batches, numbers = TrainingBatches(dataset, 0, 0.1), itertools.count()

    def step() -> TrainingBatch:
        assert folder  # kept as long as the step is
        return to_device(batches.batch(next(numbers) * images, images), device)

    return step


def _write_tokens(config: BenchConfig, folder: Path) -> Path:
    rng, grid = np.random.default_rng(0), (config.grid, config.grid)
    codes = rng.integers(config.codebook_size, size=(ROWS, *grid))
    written = write_shard(folder / shard_name(0), codes, np.zeros(ROWS), config.codebook_size)
    Manifest(
        codebook_size=config.codebook_size,
        codebook_dim=config.codebook_dim,
        grid=grid,
        class_names=("one",),
        standardisation=Standardisation((0.0,) * config.codebook_dim, 1.0),
        tokenizer_hash="",
        split="train",
        flips=False,
        shards=(Shard(shard_name(0), ROWS, written),),
    ).write(folder)
    return folder


def load_embeddings(config: BenchConfig, images: int, device: torch.device) -> Callable[[], TrainingBatch]:
    """float32 embeddings from the disk, and the code of each found again: how the public implementation does."""
    folder = tempfile.TemporaryDirectory()
    codebook = torch.randn(config.codebook_size, config.codebook_dim)
    shape = (ROWS, config.codebook_dim, config.grid, config.grid)
    stored = np.memmap(Path(folder.name) / "embeddings", dtype=np.float32, mode="w+", shape=shape)
    for row in stored:
        codes = torch.randint(config.codebook_size, shape[2:])
        row[:] = codebook[codes].permute(2, 0, 1).numpy()

    def step() -> TrainingBatch:
        assert folder  # kept as long as the step is
        z = torch.from_numpy(stored[np.random.default_rng().integers(ROWS, size=images)]).to(device)
        return TrainingBatch(
            indices=_nearest(z, codebook.to(device)),
            labels=torch.zeros(images, dtype=torch.long, device=device),
            noise=torch.randn_like(z),
            time=torch.rand(images, device=device),
        )

    return step


def _nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Nearest codes ``[B, h, w]`` by all distances at once."""
    return torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), codebook).argmin(1).view(len(z), *z.shape[2:])


def build_tokenizer(config: BenchConfig, device: torch.device) -> VQTokenizer:
    """A tokenizer of the configured sizes with random weights."""
    from purrception.tokenizers import VQConfig, VQTokenizer  # seconds of imports that other parts do without

    sizes = VQConfig(config.codebook_size, config.codebook_dim, config.tokenizer_channels)
    torch.manual_seed(0)
    return VQTokenizer(sizes.build(3, config.grid * sizes.downsampling).to(device))


def _tokenizer(config: BenchConfig, images: int, device: torch.device) -> tuple[VQTokenizer, Tensor]:
    tokenizer = build_tokenizer(config, device)
    side = config.grid * tokenizer.downsampling
    return tokenizer, torch.rand(images, 3, side, side, device=device) * 2 - 1


def rebuild(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """Nearest codes in chunks, and images decoded in groups of a fixed size."""
    tokenizer, pixels = _tokenizer(config, images, device)
    return lambda: tokenizer.decode(tokenizer.encode(pixels))


def rebuild_plainly(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """diffusers' own way: all distances, all images at once."""
    tokenizer, pixels = _tokenizer(config, images, device)

    @torch.no_grad()
    def step() -> Tensor:
        return tokenizer.vq(pixels).sample

    return step
