"""A run, opened for diagnosis: its model, its codes, and what it lacks, said in one line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.experiment.config import RunConfig
from purrception.experiment.saved_run import load_pipeline, open_tokens, sampling_defaults, saved_config
from purrception.flow import GaussianObjective, Generation, Objective, SamplingConfig
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import KeyedDraws, sample_codes
from purrception.instruments.oracle import Oracle
from purrception.models import CategoricalHead, PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training import CheckpointStore, RunDirectory
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream

LARGEST_ORACLE = 20_000
"""Grids up to which the exact posterior is worth its time."""


@dataclass(frozen=True)
class Subject:
    """What the parts of a diagnosis look at."""

    run: RunDirectory
    config: RunConfig
    pipeline: PurrceptionPipeline
    settings: SamplingConfig
    """The run's own way to sample."""
    train: TokenDataset
    held_out: TokenDataset | None
    num: int
    """Images a measurement takes, at most; samples are as many."""
    seed: int

    @property
    def step(self) -> int:
        """Of training, that the model was taken at."""
        checkpoint = CheckpointStore(self.run.checkpoints).latest()
        return self.config.training.steps if checkpoint is None else checkpoint.state.step

    @property
    def network(self) -> PurrceptionTransformer:
        """With averaged weights, in evaluation mode."""
        return self.pipeline.transformer

    @property
    def objective(self) -> Objective:
        """What it was trained with."""
        return self.pipeline.objective

    @property
    def tokenizer(self) -> VQTokenizer:
        """What decodes its codes."""
        return self.pipeline.tokenizer

    @property
    def codebook(self) -> Tensor:
        """Standardised codes ``[K, D]``."""
        return self.network.codebook

    @property
    def classes(self) -> int:
        """Number of classes; 0 when unconditional."""
        return self.network.num_classes

    @property
    def has_posterior(self) -> bool:
        """Whether the model says more than a mean."""
        return isinstance(self.network.head, CategoricalHead)

    @property
    def is_gaussian(self) -> bool:
        """Whether it moves along the linear path, so that it has a velocity."""
        return isinstance(self.objective, GaussianObjective)

    def rows(self, tokens: TokenDataset, count: int) -> tuple[Tensor, Tensor]:
        """Codes and labels of ``count`` rows drawn by a key, on the network's device."""
        indices, labels = tokens.rows(spread_rows(len(tokens), count))
        return torch.from_numpy(indices).to(self.network.device), torch.from_numpy(labels).to(self.network.device)

    def noise(self, count: int, stream: Stream = Stream.SAMPLING, step: int = 0) -> Tensor:
        """Standard normal ``[count, D, h, w]``; image i's depends on (seed, i) alone. Step 0: the start."""
        return KeyedDraws(self.seed, range(count), self.network, stream).normal(step)

    def labels(self, count: int) -> Tensor:
        """Classes that take turns, long ``[count]``."""
        return torch.arange(count, device=self.network.device) % max(self.classes, 1)

    def sample(self, count: int, settings: SamplingConfig | None = None) -> Generation:
        """Samples of classes that take turns; by the run's own settings unless others are given."""
        chosen = settings or self.settings
        return sample_codes(self.network, self.objective, self.labels(count), chosen, self.seed, 256)

    @cached_property
    def samples(self) -> Generation:
        """``num`` samples by the run's own settings; parts share them."""
        return self.sample(self.num)

    @cached_property
    def training_rows(self) -> tuple[Tensor, Tensor]:
        """All training grids and labels, or ``LARGEST_ORACLE`` ones drawn by a key."""
        return self.rows(self.train, LARGEST_ORACLE)

    @cached_property
    def oracle(self) -> Oracle:
        """The exact posterior of the training set, by class where there are classes.

        Raises:
            InputError: the training set is too large.
        """
        if len(self.train) > LARGEST_ORACLE:
            raise InputError(
                f"the exact posterior looks through every training grid; here are {len(self.train)}, accepted "
                f"up to {LARGEST_ORACLE}: leave oracle and bound out"
            )
        grids, labels = self.training_rows
        return Oracle(grids, self.codebook, labels if self.classes else None)


def open_subject(root: Path | str, num: int, seed: int, device: torch.device) -> Subject:
    """Open a run, finished or not; of an unfinished one, its latest checkpoint.

    Raises:
        InputError: no run is there; it has no checkpoint yet; its tokenizer or its shards are gone.
    """
    if num < 4:
        raise InputError(f"a diagnosis looks at 4 images or more; given --num {num}")
    run = RunDirectory.open(root)
    unfinished = not run.pipeline.is_dir()
    if unfinished and CheckpointStore(run.checkpoints).latest() is None:
        raise InputError(f"the run {root} has no checkpoint yet: let it train, or --resume it")
    if unfinished and not run.has_tokenizer:
        raise InputError(
            f"the tokenizer of the run is gone: {run.tokenizer} is missing; put the folder back, since "
            "another tokenizer would have other codes"
        )
    config = saved_config(run)
    pipeline = load_pipeline(root).to(device)
    train = open_tokens(config, run, "train")
    assert train is not None
    pipeline.transformer.eval().requires_grad_(False)
    held_out = open_tokens(config, run, "test")
    return Subject(run, config, pipeline, sampling_defaults(root), train, held_out, num, seed)
