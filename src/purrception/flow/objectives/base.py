"""What an objective is: its path, its loss and how its model is sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from purrception.flow.conditioning import AUTOMATIC, KnownCodes
from purrception.flow.network import DEFAULT_OPTIONS, Losses, Network, PredictionOptions
from purrception.flow.posterior import Posterior
from purrception.flow.settings import ObjectiveConfig, SamplingConfig
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class TrainingBatch:
    """One microbatch on the network's device."""

    indices: Tensor
    """Codes c, long ``[B, h, w]``."""
    labels: Tensor
    """Class labels after label dropout, long ``[B]``."""
    noise: Tensor
    """z_0, float32 ``[B, D, h, w]``."""
    time: Tensor
    """t, float32 ``[B]``."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction of the data at the end of the path."""

    mean: Tensor
    """μ, float32 ``[B, D, h, w]``."""
    posterior: Posterior | None = None
    """The posterior that it is the mean of, where the objective has one."""


@dataclass(frozen=True)
class State:
    """A point on the path to some data, as the network sees it."""

    z: Tensor
    """The network's input ``[B, C, h, w]``."""
    open: Tensor
    """Sites whose code the state does not show exactly, bool ``[B, h, w]``: those that are left to predict."""


@dataclass(frozen=True)
class Generation:
    """Codes, and how uncertain the model was of them."""

    indices: Tensor
    """Codes, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the posterior at the last evaluation (dfm: when the site was drawn), in nats, float32
    ``[B, h, w]``; none where the objective has no posterior."""
    nfe: int
    """Network evaluations per image; a guided step counts two."""
    path_entropy: Tensor | None = None
    """Entropy of the posterior, averaged over the time of the path (:class:`PathAverage`), in nats, float32
    ``[B, h, w]``: which tokens stayed undecided long, however many steps there were."""


class PathAverage:
    """The average over t of what falls to zero at t = 1, as uncertainty does, from its values along a path.

    The rule is the trapezium's, so that the average depends little on how many evaluations there are and where
    they lie, unlike the last of the values. A stretch that is gone back, as solvers that try a step twice do, is
    taken back.
    """

    def __init__(self) -> None:
        self._start = self._time = 0.0
        self._latest: Tensor | None = None
        self._integral: Tensor | None = None

    def add(self, t: float, value: Tensor) -> None:
        """Take in the value at ``t``, below 1."""
        if self._latest is None or self._integral is None:
            self._start, self._integral = t, torch.zeros_like(value)
        else:
            self._integral = self._integral + (t - self._time) * (self._latest + value) / 2
        self._time, self._latest = t, value

    def value(self) -> Tensor | None:
        """The average from the first time to 1; ``None`` if nothing was taken in."""
        if self._latest is None or self._integral is None:
            return None
        return (self._integral + (1 - self._time) * self._latest / 2) / (1 - self._start)


Watcher = Callable[[float, Tensor, Prediction], None]
"""Called after every evaluation with t, the network's input and its prediction. It may raise, to stop."""


StepEnd = Callable[[int, float, Tensor, Prediction], tuple[Tensor, bool]]
"""Called after every step with its number, its t, the state that it led to and the latest prediction; returns the
state to go on from, and whether to go on. The state is z; for dfm the codes, −1 where they are masked."""


def no_watcher(t: float, z: Tensor, prediction: Prediction) -> None:
    """Do nothing."""


class Draws(Protocol):
    """Random numbers for a batch of images; those of an image depend only on its key."""

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        ...

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        ...


class Objective(ABC):
    """Owns the path, the loss and the sampling of a model, so that they always fit each other.

    Its network has the head that ``head_family`` says.
    """

    head_family: ClassVar[Literal["categorical", "regression"]] = "categorical"
    """What the network's head must give: a posterior (:class:`PosteriorHead`), or a vector for each site
    (:class:`VectorHead`)."""
    extra_channels: ClassVar[int] = 0
    """Channels of the network's input besides the D of the latents."""
    takes_evidence: ClassVar[bool] = False
    """Whether the head can be given the evidence in z_t: z_t must be a Gaussian around a code."""
    takes_redraw: ClassVar[bool] = False
    """Whether its sampler can redraw sites that are unmasked."""
    conditionings: ClassVar[tuple[str, ...]] = ("replacement",)
    """The methods of conditioning on known codes, the best first."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    @property
    def token_embedding(self) -> bool:
        """Whether codes enter the network as learned vectors."""
        return False

    @classmethod
    def check_evidence(cls, evidence: bool) -> None:
        """Refuse a head with evidence where there is none.

        Raises:
            InputError: the head uses evidence, but z_t is not a Gaussian around a code whose posterior is learned.
        """
        if evidence and not cls.takes_evidence:
            raise InputError(
                f"head.evidence belongs to a categorical posterior on the Gaussian path; {cls.__name__} has "
                "none: leave it out"
            )

    def check(self, network: Network, settings: SamplingConfig) -> None:
        """Refuse settings that this objective or network cannot honour.

        Raises:
            InputError: guidance without classes; see also the objectives.
        """
        if network.num_classes == 0 and settings.guidance_scale != 1:
            raise InputError(
                f"this model has no classes, so there is nothing to guide by; given guidance "
                f"{settings.guidance_scale}, accepted 1"
            )
        if settings.redraw and not self.takes_redraw:
            raise InputError(
                f"a {self.config.name!r} model has no masks, hence no known sites to redraw: leave redraw out"
            )

    def supported(self, settings: SamplingConfig) -> SamplingConfig:
        """``settings`` without what this objective cannot honour, for comparisons that share their settings."""
        return replace(settings, redraw=settings.redraw and self.takes_redraw)

    def conditioning(self, known: KnownCodes) -> str:
        """How the free sites are conditioned on the known codes.

        Raises:
            InputError: by a method that this objective does not have.
        """
        if known.conditioning == AUTOMATIC:
            return self.conditionings[0]
        if known.conditioning not in self.conditionings:
            raise InputError(
                f"a {self.config.name!r} model cannot be conditioned by {known.conditioning!r}; accepted are "
                f"{', '.join((AUTOMATIC, *self.conditionings))}"
            )
        return known.conditioning

    @abstractmethod
    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """Loss of one microbatch, a mean over batch and sites, float32."""

    @abstractmethod
    def state_at(self, network: Network, indices: Tensor, noise: Tensor, t: float) -> State:
        """The point at ``t`` on the path from ``noise`` to some data.

        Args:
            network: embeds codes.
            indices: codes, long ``[B, h, w]``.
            noise: standard normal ``[B, D, h, w]``.
            t: time in [0, 1].
        """

    @abstractmethod
    def predict(
        self, network: Network, z: Tensor, t: float, labels: Tensor, options: PredictionOptions = DEFAULT_OPTIONS
    ) -> Prediction:
        """The model's prediction of the data, given a state at ``t``.

        Args:
            network: in evaluation mode.
            z: the state, as the network takes it.
            t: time in [0, 1].
            labels: long ``[B]``.
            options: temperature, guidance and the like; by default the conditional model as it was trained.
        """

    @abstractmethod
    def generate(
        self,
        network: Network,
        labels: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        known: KnownCodes | None = None,
        watch: Watcher = no_watcher,
        step_end: StepEnd | None = None,
    ) -> Generation:
        """Codes for ``labels``, long ``[B]``.

        Args:
            network: in evaluation mode.
            labels: long ``[B]``.
            draws: random numbers of these images.
            settings: how to sample.
            known: codes to keep, and where to begin; without them everything is made from noise.
            watch: called after every evaluation.
            step_end: called after every step; it may replace the state, and stop.

        Raises:
            InputError: see :meth:`check`.
        """

    @abstractmethod
    def nll_bounds(
        self, network: Network, indices: Tensor, labels: Tensor, draws: Draws, nodes: int = 29
    ) -> Tensor:
        """Upper bounds on −ln p(c | y), in nats per image, float64 ``[n, B]``; each of the n bounds is valid."""
