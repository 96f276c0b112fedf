"""What an objective asks of a network: features of a state, and losses, posteriors or vectors from its head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from torch import Tensor

from purrception.flow.evidence import Evidence
from purrception.flow.guidance import Guidance, PosteriorFunction
from purrception.flow.posterior import Posterior
from purrception.flow.truncation import ALL_CODES, Truncation


@dataclass(frozen=True)
class Losses:
    """A scalar to minimise and the scalars to report, detached, by name."""

    total: Tensor
    figures: dict[str, Tensor]


@dataclass(frozen=True)
class SiteLosses:
    """Losses of a categorical head for each site; each float32 ``[B, h, w]``."""

    nll: Tensor
    """−ln π(c), nats."""
    logsumexp: Tensor
    """logsumexp of the network's own logits, without evidence."""
    correct: Tensor
    """1 where the most probable code is the target."""


@dataclass(frozen=True)
class HeadLosses:
    """Losses of a categorical head, as weighted sums over sites; scalars, float32."""

    total: Tensor
    """Cross-entropy plus z-loss, to be minimised."""
    cross_entropy: Tensor
    """−ln π(c), nats."""
    z_loss: Tensor
    """λ_z logsumexp(own logits)²."""
    logsumexp: Tensor
    """logsumexp of the network's own logits, without evidence."""
    accuracy: Tensor
    """Share of sites whose most probable code is the target."""

    def losses(self) -> Losses:
        """The total, and the others to report."""
        figures = ("cross_entropy", "z_loss", "logsumexp", "accuracy")
        return Losses(self.total, {name: getattr(self, name).detach() for name in figures})


class PosteriorHead(Protocol):
    """A head that gives a posterior over the codes; features are ``[B, h/p, w/p, width]``."""

    def loss(
        self,
        features: Tensor,
        targets: Tensor,
        z_loss: float = 0.0,
        evidence: Evidence | None = None,
        weights: Tensor | None = None,
    ) -> HeadLosses:
        """Cross-entropy of the codes, long ``[B, h, w]``, and z-loss: weighted sums, or means without weights."""
        ...

    def nll(self, features: Tensor, targets: Tensor, evidence: Evidence | None = None) -> SiteLosses:
        """−ln π(c) of each site."""
        ...

    def posterior(
        self,
        features: Tensor,
        evidence: Evidence | None = None,
        temperature: float = 1.0,
        truncation: Truncation | None = None,
        uniforms: Tensor | None = None,
        top: int = 0,
    ) -> Posterior:
        """The posterior of each site; see :func:`posterior_from_logits`."""
        ...


class VectorHead(Protocol):
    """A head that gives a vector for each site."""

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``[B, h/p, w/p, width]`` → vectors, float32 ``[B, D, h, w]``."""
        ...


HeadType = TypeVar("HeadType", covariant=True)


class Network(Protocol[HeadType]):
    """A backbone and a head. It knows nothing of objectives; an objective says which head it needs."""

    @property
    def head(self) -> HeadType:
        """Turns features into losses and posteriors, or into vectors."""
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


PosteriorNetwork = Network[PosteriorHead]
VectorNetwork = Network[VectorHead]

UNGUIDED = Guidance()


@dataclass(frozen=True)
class PredictionOptions:
    """How to evaluate a model; :meth:`Objective.check` refuses what does not apply to an objective."""

    temperature: float = 1.0
    """Temperature τ of the posterior."""
    truncation: Truncation = ALL_CODES
    """Top-k and top-p of the posterior."""
    guidance: Guidance = UNGUIDED
    """Guidance by the class."""
    uniforms: Tensor | None = None
    """Numbers in [0, 1), ``[B, h, w]``, to draw a code of each site from the posterior."""
    top: int = 0
    """How many of the likeliest codes of each site to name."""

    def posterior(
        self, network: PosteriorNetwork, z: Tensor, t: float, labels: Tensor, evidence: Evidence | None
    ) -> Posterior:
        """The guided posterior of a categorical network."""
        head = self.head(network, evidence)
        return self.guidance.posterior(network, head, z, t, labels, network.num_classes)

    def head(self, network: PosteriorNetwork, evidence: Evidence | None) -> PosteriorFunction:
        """The network's head with these options."""
        return partial(
            network.head.posterior,
            evidence=evidence,
            temperature=self.temperature,
            truncation=self.truncation,
            uniforms=self.uniforms,
            top=self.top,
        )


DEFAULT_OPTIONS = PredictionOptions()
"""The conditional model as it was trained."""
