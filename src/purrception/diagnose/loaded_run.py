"""A run, loaded for diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.experiment.config import RunConfig
from purrception.experiment.saved_run import load_pipeline, open_tokens, sampling_defaults, saved_config
from purrception.flow import Generation, Objective, SamplingConfig
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import KeyedDraws, sample_codes
from purrception.instruments.oracle import Oracle
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training import CheckpointStore, RunDirectory
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream

LARGEST_ORACLE = 20_000
"""Number of training grids up to which the exact posterior is computed."""


@dataclass(frozen=True)
class LoadedRun:
    """A run with its model, its tokens and the settings of a diagnosis."""

    directory: RunDirectory
    config: RunConfig
    pipeline: PurrceptionPipeline
    settings: SamplingConfig
    """The run's sampling settings."""
    train: TokenDataset
    held_out: TokenDataset | None
    num: int
    """Number of samples, and largest number of images for a measurement."""
    seed: int

    @property
    def step(self) -> int:
        """The training step of the model."""
        checkpoint = CheckpointStore(self.directory.checkpoints).latest()
        return self.config.training.steps if checkpoint is None else checkpoint.state.step

    @property
    def network(self) -> PurrceptionTransformer:
        """The network with averaged weights, in evaluation mode."""
        return self.pipeline.transformer

    @property
    def objective(self) -> Objective:
        """The objective that it was trained with."""
        return self.pipeline.objective

    @property
    def tokenizer(self) -> VQTokenizer:
        """The tokenizer that decodes its codes."""
        return self.pipeline.tokenizer

    @property
    def codebook(self) -> Tensor:
        """Standardised codes ``[K, D]``."""
        return self.network.codebook

    @property
    def classes(self) -> int:
        """Number of classes; 0 when unconditional."""
        return self.network.num_classes

    def rows(self, tokens: TokenDataset, count: int) -> tuple[Tensor, Tensor]:
        """Codes and labels of ``count`` rows drawn by a key, on the network's device."""
        indices, labels = tokens.rows(spread_rows(len(tokens), count))
        return torch.from_numpy(indices).to(self.network.device), torch.from_numpy(labels).to(self.network.device)

    def noise(self, count: int, stream: Stream = Stream.SAMPLING, step: int = 0) -> Tensor:
        """Standard normal ``[count, D, h, w]``, for image i keyed by (seed, i); ``step`` 0 is the initial
        noise."""
        return KeyedDraws(self.seed, range(count), self.network, stream).normal(step)

    def labels(self, count: int) -> Tensor:
        """Labels that cycle through the classes, long ``[count]``."""
        return torch.arange(count, device=self.network.device) % max(self.classes, 1)

    def sample(self, count: int, settings: SamplingConfig) -> Generation:
        """Samples that cycle through the classes."""
        return sample_codes(self.network, self.objective, self.labels(count), settings, self.seed, 256)

    @cached_property
    def samples(self) -> Generation:
        """``num`` samples with the run's own settings, shared by all parts."""
        return self.sample(self.num, self.settings)

    @cached_property
    def training_rows(self) -> tuple[Tensor, Tensor]:
        """All training grids and labels, or ``LARGEST_ORACLE`` of them drawn by a key."""
        return self.rows(self.train, LARGEST_ORACLE)

    @cached_property
    def oracle(self) -> Oracle:
        """The exact posterior of the training set, for each class if there are classes.

        A part that uses it is left out where the set has more than ``LARGEST_ORACLE`` grids.
        """
        grids, labels = self.training_rows
        return Oracle(grids, self.codebook, labels if self.classes else None)


def load_run(root: Path | str, num: int, seed: int, device: torch.device) -> LoadedRun:
    """Load a run; of an unfinished one, its latest checkpoint.

    Raises:
        InputError: there is no run, it has no checkpoint yet, or its tokenizer or its shards are missing.
    """
    if num < 4:
        raise InputError(f"a diagnosis needs at least 4 images; given --num {num}")
    run = RunDirectory.open(root)
    config = saved_config(run)
    pipeline = load_pipeline(root).to(device)
    train = open_tokens(config, run, "train")
    assert train is not None
    pipeline.transformer.eval().requires_grad_(False)
    held_out = open_tokens(config, run, "test")
    return LoadedRun(run, config, pipeline, sampling_defaults(root), train, held_out, num, seed)
