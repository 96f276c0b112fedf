"""The two ends of the pipeline: batches from token shards, and encoding and decoding of images."""

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
"""Rows of the token shard or the file of embeddings that is read."""


def load_batches(config: BenchConfig, images: int, device: torch.device) -> Callable[[], TrainingBatch]:
    """Rows of a shard in random order, with noise and times keyed by their position, made in one thread."""
    folder = tempfile.TemporaryDirectory()
    tokens, grid = Path(folder.name) / "tokens", (config.grid, config.grid)
    write_random_tokens(tokens, ROWS, grid, config.codebook_size, config.codebook_dim, num_classes=1)
    batches, numbers = TrainingBatches(TokenDataset(tokens), 0, 0.1), itertools.count()

    def step() -> TrainingBatch:
        assert folder  # it lives as long as the step
        return to_device(batches.batch(next(numbers) * images, images), device)

    return step


def write_random_tokens(
    folder: Path, rows: int, grid: tuple[int, int], codebook_size: int, codebook_dim: int, num_classes: int
) -> None:
    """Write a token shard of random codes and labels to a new folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    codes = rng.integers(codebook_size, size=(rows, *grid))
    labels = rng.integers(max(num_classes, 1), size=rows)
    digest = write_shard(folder / shard_name(0), codes, labels, codebook_size)
    Manifest(
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        grid=grid,
        class_names=tuple(map(str, range(num_classes))),
        standardisation=Standardisation((0.0,) * codebook_dim, 1.0),
        tokenizer_hash="",
        split="train",
        flips=False,
        shards=(Shard(shard_name(0), rows, digest),),
    ).write(folder)


def load_embeddings(config: BenchConfig, images: int, device: torch.device) -> Callable[[], TrainingBatch]:
    """float32 embeddings from the disk, mapped back to their codes, as in the public implementation."""
    folder = tempfile.TemporaryDirectory()
    codebook = torch.randn(config.codebook_size, config.codebook_dim)
    shape = (ROWS, config.codebook_dim, config.grid, config.grid)
    stored = np.memmap(Path(folder.name) / "embeddings", dtype=np.float32, mode="w+", shape=shape)
    for row in stored:
        codes = torch.randint(config.codebook_size, shape[2:])
        row[:] = codebook[codes].permute(2, 0, 1).numpy()

    def step() -> TrainingBatch:
        assert folder  # it lives as long as the step
        z = torch.from_numpy(stored[np.random.default_rng().integers(ROWS, size=images)]).to(device)
        distances = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), codebook.to(device))  # all of them at once
        return TrainingBatch(
            indices=distances.argmin(1).view(images, config.grid, config.grid),
            labels=torch.zeros(images, dtype=torch.long, device=device),
            noise=torch.randn_like(z),
            time=torch.rand(images, device=device),
        )

    return step


def build_tokenizer(config: BenchConfig, device: torch.device) -> VQTokenizer:
    """A tokenizer of the configured sizes with random weights."""
    from purrception.tokenizers import VQConfig, VQTokenizer  # takes seconds to import

    sizes = VQConfig(config.codebook_size, config.codebook_dim, config.tokenizer_channels)
    torch.manual_seed(0)
    return VQTokenizer(sizes.build(3, config.grid * sizes.downsampling).to(device))


def _tokenizer(config: BenchConfig, images: int, device: torch.device) -> tuple[VQTokenizer, Tensor]:
    tokenizer = build_tokenizer(config, device)
    side = config.grid * tokenizer.downsampling
    return tokenizer, torch.rand(images, 3, side, side, device=device) * 2 - 1


def rebuild(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """Encode and decode with the tokenizer's own methods, which work in chunks and groups."""
    tokenizer, pixels = _tokenizer(config, images, device)
    return lambda: tokenizer.decode(tokenizer.encode(pixels))


def rebuild_plainly(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """Encode and decode as diffusers does: all distances, all images at once."""
    tokenizer, pixels = _tokenizer(config, images, device)

    @torch.no_grad()
    def step() -> Tensor:
        return tokenizer.vq(pixels).sample

    return step
