"""What an objective is, and what it asks of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from purrception.flow.conditioning import AUTOMATIC, Given
from purrception.flow.evidence import Evidence
from purrception.flow.guidance import Guidance, PosteriorFunction
from purrception.flow.posterior import Posterior, Truncation
from purrception.flow.settings import SamplingConfig
from purrception.utils.errors import InputError

ALL_CODES, UNGUIDED = Truncation(), Guidance()


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which objective, and its weights."""

    name: str = "purrception"
    """purrception, cfm, cfm-endpoint or dfm."""
    z_loss: float = 1e-5
    """λ_z, the weight of logsumexp(logits)² against logit drift; for objectives with logits."""
    sites: Literal["masked", "all"] = "masked"
    """dfm: sites that count in the loss; all: also those whose code is shown, as in the paper's code."""
    embedding: Literal["codebook", "learned"] = "codebook"
    """dfm: how a code enters the network, as it stands in the codebook or as a learned vector of the network's
    width, as in the paper's code."""

    def __post_init__(self) -> None:
        """Refuse a weight that would reward drift."""
        if self.z_loss < 0:
            raise InputError(f"objective.z_loss is at least 0; given {self.z_loss}")


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
class SiteLosses:
    """What a categorical head says of its targets; each float32 ``[B, h, w]``."""

    nll: Tensor
    """−ln π(c), nats."""
    logsumexp: Tensor
    """logsumexp of the network's own logits, without evidence."""
    correct: Tensor
    """1 where the most probable code is the target."""


@dataclass(frozen=True)
class HeadLosses:
    """Weighted sums over sites of what a categorical head says of its targets; scalars, float32."""

    total: Tensor
    """To minimise: cross-entropy and z-loss."""
    cross_entropy: Tensor
    """−ln π(c), nats."""
    z_loss: Tensor
    """λ_z logsumexp(own logits)²."""
    logsumexp: Tensor
    """Of the network's own logits, without evidence."""
    accuracy: Tensor
    """Share of sites whose most probable code is the target."""

    def losses(self) -> Losses:
        """As the training loop takes them."""
        figures = ("cross_entropy", "z_loss", "logsumexp", "accuracy")
        return Losses(self.total, {name: getattr(self, name).detach() for name in figures})


@dataclass(frozen=True)
class Losses:
    """A scalar to minimise and the scalars to report, detached, by name."""

    total: Tensor
    figures: dict[str, Tensor]


@dataclass(frozen=True)
class PredictionOptions:
    """How to ask a model; what does not apply to an objective is refused by its :meth:`Objective.check`."""

    temperature: float = 1.0
    """τ of the posterior."""
    truncation: Truncation = ALL_CODES
    """Top-k and top-p of the posterior."""
    guidance: Guidance = UNGUIDED
    """By the class."""
    uniforms: Tensor | None = None
    """``[B, h, w]`` in [0, 1), to draw a code of each site from the posterior."""
    top: int = 0
    """How many of the likeliest codes of each site to name."""

    def posterior(
        self, network: Network, z: Tensor, t: float, labels: Tensor, evidence: Evidence | None
    ) -> Posterior:
        """The posterior of a categorical network, asked in this way."""
        head = self.head(network, evidence)
        return self.guidance.posterior(network, head, z, t, labels, network.num_classes)

    def head(self, network: Network, evidence: Evidence | None) -> PosteriorFunction:
        """The network's head, asked in this way."""
        return partial(
            network.head.posterior,
            evidence=evidence,
            temperature=self.temperature,
            truncation=self.truncation,
            uniforms=self.uniforms,
            top=self.top,
        )


PLAIN = PredictionOptions()
"""The conditional model as it was trained."""


@dataclass(frozen=True)
class Prediction:
    """What a model holds of the end of the path."""

    mean: Tensor
    """μ, float32 ``[B, D, h, w]``."""
    posterior: Posterior | None = None
    """The posterior behind it, where the objective has one."""


@dataclass(frozen=True)
class State:
    """A data grid on its way, as the network sees it."""

    z: Tensor
    """The network's input ``[B, C, h, w]``."""
    open: Tensor
    """Sites whose code is not shown outright, bool ``[B, h, w]``: those that there is something to say about."""


@dataclass(frozen=True)
class Generation:
    """Codes, and what the model thought when it chose them."""

    indices: Tensor
    """long ``[B, h, w]``."""
    entropy: Tensor | None
    """Of the posterior at the last evaluation (dfm: when the site was drawn), nats, float32 ``[B, h, w]``;
    none where the objective has no posterior."""
    nfe: int
    """Network evaluations per image; a guided step counts two."""


Watcher = Callable[[float, Tensor, Prediction], None]
"""Told of every evaluation: t, the state that the network saw, and what it predicts. It may raise, to stop."""


def unwatched(t: float, z: Tensor, prediction: Prediction) -> None:
    """Nobody looks."""


class Draws(Protocol):
    """Random numbers for a batch of images; those of an image depend on its key alone."""

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        ...

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        ...


class Network(Protocol):
    """A backbone and a head. It knows nothing of objectives."""

    @property
    def head(self) -> Any:
        """A categorical head (``nll``, ``posterior``) or one that gives a vector per site (``__call__``)."""
        ...

    @property
    def evidence(self) -> bool:
        """Whether the head is to be given the evidence in z_t."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 when unconditional. The null class has this label."""
        ...

    @property
    def codebook(self) -> Tensor:
        """Standardised codes, float32 ``[K, D]``."""
        ...

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings z_1, float32 ``[B, D, h, w]``."""
        ...

    def embed_masked(self, indices: Tensor, masked: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]``, some of them masked (bool ``[B, h, w]``) → the network's input."""
        ...

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """z_t ``[B, D, h, w]``, t ``[B]``, labels ``[B]`` → features for the head."""
        ...


class Objective(ABC):
    """Owns the path, the loss and the inference conversion, so that they cannot drift apart."""

    head_family: ClassVar[Literal["categorical", "regression"]] = "categorical"
    """What the network's head must give: a posterior, or a vector per site."""
    extra_channels: ClassVar[int] = 0
    """Channels of the network's input besides the D of the latents."""
    takes_evidence: ClassVar[bool] = False
    """Whether the head can be given the evidence in z_t: z_t must be a Gaussian around a code."""
    takes_redraw: ClassVar[bool] = False
    """Whether its sampler can draw known sites anew."""
    conditionings: ClassVar[tuple[str, ...]] = ("replacement",)
    """The ways in which given codes can act on the others, the best first."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    @property
    def token_embedding(self) -> bool:
        """Whether codes enter the network as learned vectors."""
        return False

    @classmethod
    def check_evidence(cls, evidence: bool) -> None:
        """Refuse the evidence where there is none.

        Raises:
            InputError: the head is to use evidence, and z_t is not a Gaussian around a code whose posterior is
                learned.
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
                f"this model has no classes, so that there is nothing to guide by; given guidance "
                f"{settings.guidance_scale}, accepted 1"
            )
        if settings.redraw and not self.takes_redraw:
            raise InputError(
                f"a {self.config.name!r} model has no masks, hence no known sites to redraw: leave redraw out"
            )

    def supported(self, settings: SamplingConfig) -> SamplingConfig:
        """``settings`` without what this objective cannot honour, for comparisons that share one setting."""
        return replace(settings, redraw=settings.redraw and self.takes_redraw)

    def conditioning(self, given: Given) -> str:
        """How ``given`` acts on the free sites.

        Raises:
            InputError: in a way that this objective does not have.
        """
        if given.conditioning == AUTOMATIC:
            return self.conditionings[0]
        if given.conditioning not in self.conditionings:
            raise InputError(
                f"a {self.config.name!r} model cannot be conditioned by {given.conditioning!r}; accepted are "
                f"{', '.join((AUTOMATIC, *self.conditionings))}"
            )
        return given.conditioning

    @abstractmethod
    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """Loss of one microbatch: means over batch and sites, float32."""

    @abstractmethod
    def state_at(self, network: Network, indices: Tensor, noise: Tensor, t: float) -> State:
        """Where the path from ``noise`` to a data grid is at ``t``.

        Args:
            network: embeds codes.
            indices: codes, long ``[B, h, w]``.
            noise: standard normal ``[B, D, h, w]``.
            t: time in [0, 1].
        """

    @abstractmethod
    def predict(
        self, network: Network, z: Tensor, t: float, labels: Tensor, options: PredictionOptions = PLAIN
    ) -> Prediction:
        """What the model holds of the end of the path, given a state at ``t``.

        Args:
            network: in evaluation mode.
            z: the state, as the network takes it.
            t: time in [0, 1].
            labels: long ``[B]``.
            options: temperature and the like; plain by default.
        """

    @abstractmethod
    def generate(
        self,
        network: Network,
        labels: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        given: Given | None = None,
        watch: Watcher = unwatched,
    ) -> Generation:
        """Codes for ``labels``, long ``[B]``.

        Args:
            network: in evaluation mode.
            labels: long ``[B]``.
            draws: random numbers of these images.
            settings: how to sample.
            given: codes to keep, and where to begin; left out, everything is made from noise.
            watch: told of every evaluation.

        Raises:
            InputError: see :meth:`check`.
        """

    @abstractmethod
    def nll_bounds(
        self, network: Network, indices: Tensor, labels: Tensor, draws: Draws, nodes: int = 29
    ) -> Tensor:
        """Upper bounds on −ln p(c | y), nats per image, float64 ``[n, B]``: each valid on its own."""
