"""What an objective is, and what it asks of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from purrception.errors import InputError
from purrception.flow.evidence import Evidence
from purrception.flow.guidance import Guidance
from purrception.flow.posterior import Posterior


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which objective, and its weights."""

    name: str = "purrception"
    """purrception (categorical posterior, cross-entropy)."""
    z_loss: float = 1e-5
    """λ_z, the weight of logsumexp(logits)² against logit drift."""

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
class Losses:
    """A scalar to minimise and the scalars to report, detached, by name."""

    total: Tensor
    figures: dict[str, Tensor]


class Head(Protocol):
    """The part of a network that turns features into a posterior."""

    def nll(self, features: Tensor, targets: Tensor, evidence: Evidence | None = None) -> SiteLosses:
        """Losses of ``targets``, long ``[B, h, w]``, per site."""
        ...

    def posterior(
        self, features: Tensor, evidence: Evidence | None = None, temperature: float = 1.0
    ) -> Posterior:
        """The posterior's statistics per site."""
        ...


class Network(Protocol):
    """A backbone and a head. It knows nothing of objectives."""

    @property
    def head(self) -> Head:
        """Turns features into losses or a posterior."""
        ...

    @property
    def evidence(self) -> bool:
        """Whether the head is to be given the evidence in z_t."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 when unconditional. The null class has this label."""
        ...

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings z_1, float32 ``[B, D, h, w]``."""
        ...

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """z_t ``[B, D, h, w]``, t ``[B]``, labels ``[B]`` → features for the head."""
        ...


class Objective(ABC):
    """Owns the path, the loss and the inference conversion, so that they cannot drift apart."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    @abstractmethod
    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """Loss of one microbatch: means over batch and sites, float32."""

    @abstractmethod
    def predict(
        self,
        network: Network,
        z: Tensor,
        t: float,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
    ) -> Posterior:
        """What the model holds possible at the end of the path, given ``z`` ``[B, D, h, w]`` at ``t``."""
