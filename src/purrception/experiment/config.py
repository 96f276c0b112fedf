"""The configuration of a run: frozen dataclasses, each beside what it builds, composed here.

Values come from, in rising precedence: defaults, a recipe or YAML file, the command line.
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
from purrception.storage import is_plain_name, load_settings
from purrception.tokenizers import LossConfig, TokenizerTrainingConfig, VQConfig
from purrception.training import TrainingConfig
from purrception.utils.errors import InputError, check_numbers
from purrception.utils.options import ProcessOptions


@dataclass(frozen=True)
class TokenizerConfig:
    """Where the tokenizer comes from: trained as part of the run, a folder or hub id, or a public checkpoint."""

    path: str = ""
    """Folder of an existing tokenizer (diffusers VQModel), hub:OWNER/NAME, or a checkpoint file to convert; empty:
    train one."""
    arch: str = ""
    """What a checkpoint file holds: vq-f4, vq-f8, vq-f8-n256, vq-f16, vqgan-imagenet-f16-1024,
    vqgan-imagenet-f16-16384, vq-ds8-c2i, vq-ds16-c2i or vq-ds16-t2i."""
    standardise: bool = True
    """Shift and scale the codes so that latents have mean 0 and variance 1; False: noise is added to the codes as
    they are, as the paper's code does."""
    model: VQConfig = field(default_factory=VQConfig)
    """Architecture of the tokenizer to train."""
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    """How to train it."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    name: str
    """Name of the run; its directory is RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Of initial weights, data order, noise and label dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Images to codes."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is learned."""
    network: DiTConfig = field(default_factory=DiTConfig)
    """Backbone."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """What turns its features into a posterior."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimisation."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the run samples by default."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How it is judged."""
    init_from: str = ""
    """Pipeline or run, or hub:OWNER/NAME, whose weights training starts from; classes may differ."""

    def __post_init__(self) -> None:
        """Refuse a name that is no folder name, and a seed that no generator takes."""
        if not is_plain_name(self.name) or self.name.startswith("."):
            raise InputError(f"a run's name is a plain folder name; given {self.name!r}")
        _check(self, self.data)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"a seed lies in [0, 2⁶³); given {self.seed}")


@dataclass(frozen=True)
class TokenizerRunConfig(ProcessOptions):
    """Everything that determines the training of a tokenizer by itself."""

    data: DataConfig = field(default_factory=DataConfig)
    """Images."""
    model: VQConfig = field(default_factory=VQConfig)
    """Architecture; that of init_from where there is one."""
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    """Losses, quantiser and optimisation."""
    seed: int = 0
    """Of initial weights, the order of the images and restarted codes."""
    init_from: str = ""
    """Folder of a tokenizer to go on from; empty: start anew."""
    decoder_only: bool = False
    """Train the decoder of init_from alone: every image keeps its codes."""

    def __post_init__(self) -> None:
        """Refuse a decoder of nothing."""
        _check(self, self.data)
        if self.decoder_only and not self.init_from:
            raise InputError(
                "decoder_only trains the decoder of an existing tokenizer: give it with --init-from DIR"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"a seed lies in [0, 2⁶³); given {self.seed}")


@dataclass(frozen=True)
class DataOptions:
    """Images alone, for verbs that take ``--data.…`` and no other part of a configuration."""

    data: DataConfig = field(default_factory=DataConfig)
    """Images."""

    def __post_init__(self) -> None:
        """Refuse numbers that are none."""
        _check(self, self.data)


def _check(settings: object, data: DataConfig) -> None:
    """Refuse numbers that are not finite, anywhere in ``settings``, and images larger than any network takes."""
    check_numbers(data, "data.", image_size=2**14, classes=2**17, views=2**16)
    check_numbers(settings)


PATHS: dict[type, tuple[str, ...]] = {
    DataConfig: ("root", "tokens"),
    TokenizerConfig: ("path",),
    RunConfig: ("init_from",),
    TokenizerRunConfig: ("init_from",),
    LossConfig: ("perceptual_weights",),
}
"""Settings that name what lies somewhere, as a path, an address or an id of the hub."""

T = TypeVar("T")


def map_paths(settings: T, change: Callable[[str], str]) -> T:
    """``settings`` with every text in them that names what lies somewhere changed; see :data:`PATHS`."""
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
        InputError: the file is missing, is no YAML or does not validate.
    """
    return load_settings(RunConfig, path)
