"""The configuration of a run, composed of the dataclasses that stand beside what they configure.

Values come from the defaults, a recipe or YAML file, and the command line; the later ones take precedence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from purrception.data import DataConfig
from purrception.evaluation import EvaluationConfig
from purrception.flow import ObjectiveConfig, SamplingConfig
from purrception.models import DiTConfig, HeadConfig
from purrception.storage import is_plain_name
from purrception.tokenizers import LossConfig, TokenizerTrainingConfig, VQConfig
from purrception.training import TrainingConfig
from purrception.utils.errors import InputError
from purrception.utils.settings import ProcessOptions, check_numbers


@dataclass(frozen=True)
class TokenizerConfig:
    """Where the tokenizer comes from: trained as part of the run, a folder or hub id, or a public checkpoint."""

    path: str = ""
    """Folder of an existing tokenizer (a diffusers VQModel), hub:OWNER/NAME, or a checkpoint file to convert;
    empty: train a tokenizer."""
    arch: str = ""
    """Architecture of the checkpoint file: vq-f4, vq-f8, vq-f8-n256, vq-f16, vqgan-imagenet-f16-1024,
    vqgan-imagenet-f16-16384, vq-ds8-c2i, vq-ds16-c2i or vq-ds16-t2i."""
    standardise: bool = True
    """Standardise the codes, so that latents have mean 0 and variance 1; False: noise is added to the codes as
    they are, as in the paper's code."""
    model: VQConfig = field(default_factory=VQConfig)
    """Architecture of the tokenizer to train."""
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    """How to train the tokenizer."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    name: str
    """Name of the run, whose folder is RUNS/NAME."""
    runs: str = "runs"
    """Folder that holds the runs."""
    seed: int = 0
    """Seed of the initial weights, the data order, the noise and the label dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer, which turns images into codes."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The objective of training."""
    network: DiTConfig = field(default_factory=DiTConfig)
    """The backbone of the network."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The head, which turns the backbone's features into a posterior."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimisation, logging and saving."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """The default sampling settings of the run."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How samples of the run are evaluated."""
    init_from: str = ""
    """Pipeline, run or hub:OWNER/NAME whose weights training starts from; its classes may differ."""

    def __post_init__(self) -> None:
        """Refuse a name that is not a folder name, and numbers that are not finite or out of range."""
        if not is_plain_name(self.name) or self.name.startswith("."):
            raise InputError(f"a run's name must be a plain folder name; given {self.name!r}")
        _check(self, self.data, self.seed)


@dataclass(frozen=True)
class TokenizerRunConfig(ProcessOptions):
    """Everything that determines the training of a tokenizer on its own."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    model: VQConfig = field(default_factory=VQConfig)
    """Architecture of the tokenizer; that of init_from if given."""
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    """Losses, quantiser and optimisation."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and the restarted codes."""
    init_from: str = ""
    """Folder of a tokenizer whose weights training starts from; empty: start from random weights."""
    decoder_only: bool = False
    """Train only the decoder of init_from, so that every image keeps its codes."""

    def __post_init__(self) -> None:
        """Refuse decoder_only without a tokenizer, and numbers that are not finite or out of range."""
        _check(self, self.data, self.seed)
        if self.decoder_only and not self.init_from:
            raise InputError(
                "decoder_only trains the decoder of an existing tokenizer: give the tokenizer with --init-from DIR"
            )


@dataclass(frozen=True)
class DataOptions:
    """The images, for verbs that take ``--data.…`` and no other part of a configuration."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite or out of range."""
        _check(self, self.data)


def _check(settings: object, data: DataConfig, seed: int = 0) -> None:
    """Refuse numbers in ``settings`` that are not finite, images that no network could take, and a bad seed."""
    check_numbers(data, "data.", image_size=2**14, classes=2**17, views=2**16)
    check_numbers(settings)
    if not 0 <= seed < 2**63:
        raise InputError(f"a seed lies in [0, 2⁶³); given {seed}")


PATHS: dict[type, tuple[str, ...]] = {
    DataConfig: ("root", "tokens"),
    TokenizerConfig: ("path",),
    RunConfig: ("init_from",),
    TokenizerRunConfig: ("init_from",),
    LossConfig: ("perceptual_weights",),
}
"""Settings that are a path, an address or an id of the hub."""

T = TypeVar("T")


def map_paths(settings: T, change: Callable[[str], str]) -> T:
    """``settings`` with ``change`` applied to each of their paths; see :data:`PATHS`."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed[item.name] = map_paths(value, change)
        elif item.name in PATHS.get(type(settings), ()):
            changed[item.name] = change(value) if isinstance(value, str) else tuple(map(change, value))
    return dataclasses.replace(settings, **changed)  # type: ignore[type-var]


def load_config(path: Path | str) -> RunConfig:
    """Read the YAML configuration of a run, strictly.

    Raises:
        InputError: the file is missing, not YAML or not valid.
    """
    from purrception.storage import load_settings

    return load_settings(RunConfig, path)
