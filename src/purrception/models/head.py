"""Heads: features per token → a categorical posterior over the codebook, or a vector, per site.

Every head is affine in the features, so that guidance may act on them (see :class:`flow.Guidance`), and
starts at zero: the first posterior is uniform, the first cross-entropy ln K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.flow import (
    Evidence,
    HeadLosses,
    Posterior,
    PosteriorSums,
    SiteLosses,
    Truncation,
)
from purrception.models.chunked_loss import (
    Kernel,
    SoftTargets,
    Terms,
    chunk_terms,
    site_losses,
    total_loss,
)
from purrception.models.chunked_posterior import Reading, Sums, chunked_posterior
from purrception.models.factored_logits import FactoredLogits, group_evidence
from purrception.models.fused import check_kernel
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers


@dataclass(frozen=True)
class HeadConfig:
    """Which head, and its size."""

    kind: str = "linear"
    """Vocabulary head of objectives with a posterior: linear (the paper's), factored (low rank) or geometric (low
    rank, codes near each other share what they learn). The continuous objectives take a vector per site by
    themselves (regression)."""
    rank: int = 64
    """Channels of a site's features in the factored and geometric heads."""
    evidence: bool = False
    """Add what z_t itself says of its code, in closed form, to the logits of a categorical head."""

    def __post_init__(self) -> None:
        """Refuse a head that does not exist or cannot be.

        Raises:
            InputError: an unknown kind (with the nearest known one), a rank below 1, or evidence for a head
                without logits to add it to.
        """
        check_numbers(self, "head.", rank=2**16)
        if self.kind not in HEADS:
            raise unknown_name("head", self.kind, HEADS)
        if self.rank < 1:
            raise InputError(f"head.rank is at least 1; given {self.rank}")
        if self.evidence and not issubclass(HEADS[self.kind], CategoricalHead):
            raise InputError(
                f"head.evidence belongs to a head with logits; given with the head {self.kind!r}: leave it "
                f"out, or take one of {', '.join(categorical_heads())}"
            )

    def build(self, width: int, codebook: Tensor, patch_size: int) -> Head:
        """The head for features of ``width`` channels over a standardised ``codebook`` ``[K, D]``."""
        return HEADS[self.kind].from_config(self, width, codebook, patch_size)


def to_sites(tokens: Tensor, patch_size: int) -> Tensor:
    """Cut tokens into the sites of their patches: ``[B, h/p, w/p, p² C]`` → ``[B, h, w, C]``."""
    p = patch_size
    batch, height, width, channels = tokens.shape
    patches = tokens.view(batch, height, width, p, p, channels // p**2)
    return patches.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * p, width * p, -1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Head(nn.Module, ABC):
    """What all heads have: the codes, and a price.

    Args:
        width: channels of the features.
        codebook: standardised codes, float32 ``[K, D]``; kept as a buffer, so that the codes that are
            averaged are the codes of the data.
        patch_size: p, sites per token along one side.
    """

    codebook: Tensor

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__()
        self.width, self.patch_size = width, patch_size
        self.register_buffer("codebook", codebook.float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and cast like any module, but keep the codes in float32: they are data, and round nowhere."""
        exact = self.codebook
        super()._apply(fn, recurse)
        if self.codebook.dtype != exact.dtype:
            self.codebook = exact.to(self.codebook.device)
        return self

    @classmethod
    def from_config(cls, config: HeadConfig, width: int, codebook: Tensor, patch_size: int) -> Self:
        """The head that ``config`` describes; see :meth:`HeadConfig.build`."""
        return cls(width, codebook, patch_size)

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings, float32 ``[B, D, h, w]``."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2).contiguous()

    def parameter_count(self) -> int:
        """Learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def flops(self, sites: int) -> int:
        """Floating-point operations, two a multiply–add, of the matrix products of one forward pass.

        Args:
            sites: h·w of one image.
        """

    def shared_flops(self) -> int:
        """The part of :meth:`flops` that a whole batch needs only once."""
        return 0


class CategoricalHead(Head):
    """A head whose logits make a posterior over the K codes, one per site.

    With evidence, the posterior is softmax(own logits + evidence): the head then learns what the other sites
    and the label say of a code, and z_t's own say is exact. Under guidance features are extrapolated and the
    evidence is added once, which is the same as extrapolating the sums: weights of one share.
    """

    chunk_bytes: int | None = None
    """Memory of a chunk of logits; left out, chosen by the device."""
    terms: Terms = staticmethod(chunk_terms)
    """What makes losses and their derivative of a chunk; see :meth:`compile_chunks`."""
    sums: Sums = PosteriorSums.of
    """What makes a posterior's sums of a tile, likewise."""
    kernel: Kernel = "auto"
    """See :meth:`use_kernel`."""

    def compile_chunks(self, backend: str = "inductor") -> None:
        """Compile what :meth:`loss` and :meth:`posterior` make of a chunk of logits (torch.compile)."""
        self.terms = torch.compile(chunk_terms, backend=backend)
        self.sums = torch.compile(PosteriorSums.of, backend=backend)

    def use_kernel(self, kernel: Kernel) -> None:
        """Choose what does the work of :meth:`loss` and :meth:`posterior`, for as long as the head stays there.

        Args:
            kernel: torch (operations on chunks of logits), triton (:mod:`models.fused`; what its kernels do
                not do stays with torch), or auto: triton where there is a CUDA device that has it.

        Raises:
            InputError: an unknown kernel, or one that cannot run where the head is.
        """
        check_kernel(kernel, self.codebook.device)
        self.kernel = kernel

    @abstractmethod
    def factors(self, features: Tensor) -> FactoredLogits:
        """Own logits, affine in the features ``[B, h/p, w/p, width]``, before they are multiplied out."""

    def logits(self, features: Tensor) -> Tensor:
        """Own logits ``[B, h, w, K]``, all at once: for tests and small vocabularies."""
        return self.factors(features).full()

    def loss(
        self,
        features: Tensor,
        targets: Tensor,
        z_loss: float = 0.0,
        evidence: Evidence | None = None,
        weights: Tensor | None = None,
        soft: SoftTargets | None = None,
    ) -> HeadLosses:
        """Cross-entropy of softmax(own logits + evidence), and λ_z logsumexp² of the own logits, in float32.

        The z-loss is there to keep the network's own logits from drifting; the evidence, which is 10⁴ and more
        near t = 1, would drown them.

        Args:
            features: ``[B, h/p, w/p, width]``.
            targets: codes, long ``[B, h, w]``.
            z_loss: λ_z.
            evidence: of the state that the features were computed from.
            weights: of the sites, ``[B, h, w]``; left out, their mean is taken.
            soft: a distribution over the codes to learn, beside ``targets`` or instead; see
                :meth:`soft_targets`.

        Raises:
            InputError: soft targets of another layout.
        """
        if weights is None:
            weights = torch.full(targets.shape, 1 / targets.numel(), device=targets.device)
        factors = self.factors(features)
        grouped = group_evidence(factors, evidence, self.codebook)
        return total_loss(
            factors, targets, weights, z_loss, grouped, self.terms, self.chunk_bytes, soft, self.kernel
        )

    @torch.no_grad()
    def soft_targets(self, features: Tensor, evidence: Evidence | None = None, share: float = 1.0) -> SoftTargets:
        """This head's posterior as what another head of its kind is to learn, without a gradient.

        Args:
            features: ``[B, h/p, w/p, width]``, of this head's network.
            evidence: of the state that they were computed from.
            share: of the posterior in the other's targets; the rest is the code itself.
        """
        factors = self.factors(features)
        return SoftTargets(factors, group_evidence(factors, evidence, self.codebook), share)

    def nll(self, features: Tensor, targets: Tensor, evidence: Evidence | None = None) -> SiteLosses:
        """Negative log-likelihood of ``targets`` per site under softmax(own logits + evidence), in float32.

        Arguments as in :meth:`loss`, which is cheaper where one number is all that is wanted.
        """
        factors = self.factors(features)
        return site_losses(factors, targets, group_evidence(factors, evidence, self.codebook), self.chunk_bytes)

    def posterior(
        self,
        features: Tensor,
        evidence: Evidence | None = None,
        temperature: float = 1.0,
        truncation: Truncation | None = None,
        uniforms: Tensor | None = None,
        top: int = 0,
    ) -> Posterior:
        """Statistics of softmax((own logits + evidence)/τ) per site, truncated, in float32.

        ``uniforms``, ``[B, h, w]``, also draw a code of each site; ``top`` also names that many of the likeliest.

        τ divides the evidence too. It is a property of the posterior, π^(1/τ), and means the same with
        evidence as for a head that had to learn the evidence. Dividing the own logits alone would temper the
        prior, and vanish as t → 1, where the evidence decides.

        Raises:
            InputError: the temperature is not positive.
        """
        factors = self.factors(features)
        grouped = group_evidence(factors, evidence, self.codebook)
        reading = Reading(self.codebook, temperature, truncation or Truncation(), top, self.sums, self.kernel)
        return chunked_posterior(factors, grouped, reading, uniforms, self.chunk_bytes)


class LinearHead(CategoricalHead):
    """The paper's head: one linear map from a token's features to K logits for each of its p² sites."""

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__(width, codebook, patch_size)
        self.linear = _zero(nn.Linear(width, patch_size**2 * len(codebook)))

    def factors(self, features: Tensor) -> FactoredLogits:
        """A row a token, and a group of class weights for each site of a patch."""
        batch, height, width, _ = features.shape
        p, codes = self.patch_size, len(self.codebook)
        return FactoredLogits(
            rows=features.flatten(0, 2),
            weight=self.linear.weight.view(p * p, codes, self.width),
            bias=self.linear.bias.view(p * p, codes),
            sites=(batch, height * p, width * p),
        )

    def flops(self, sites: int) -> int:
        """2 · sites · width · K; see :meth:`Head.flops`."""
        return 2 * sites * self.width * len(self.codebook)


class FactoredHead(CategoricalHead):
    """Token → r features per site → logits through one vector per code, shared by all sites of a patch.

    The logit of code k is s·w_k + b_k. The parameters are (width + 1) p² r + K (r + 1), where the linear head
    has (width + 1) p² K. Only w and b start at zero, so that they learn from the first step on, and the map
    to sites from the second.

    Args:
        width: channels of the features.
        codebook: standardised codes ``[K, D]``.
        patch_size: p, sites per token along one side.
        rank: r.
    """

    def __init__(self, width: int, codebook: Tensor, patch_size: int, rank: int = 64) -> None:
        super().__init__(width, codebook, patch_size)
        self.rank = rank
        self.sites = nn.Linear(width, patch_size**2 * rank)
        self.weight = nn.Parameter(torch.zeros(len(codebook), rank))
        self.bias = nn.Parameter(torch.zeros(len(codebook)))

    @classmethod
    def from_config(cls, config: HeadConfig, width: int, codebook: Tensor, patch_size: int) -> Self:
        """The head of rank ``config.rank``."""
        return cls(width, codebook, patch_size, config.rank)

    def site_features(self, features: Tensor) -> Tensor:
        """s: ``[B, h/p, w/p, width]`` → ``[B, h, w, r]``."""
        return to_sites(self.sites(features.to(self.sites.weight.dtype)), self.patch_size)

    def class_weights(self) -> Tensor:
        """w, one vector per code: ``[K, r]``."""
        return self.weight

    def factors(self, features: Tensor) -> FactoredLogits:
        """A row a site, and one group of class weights."""
        sites = self.site_features(features)
        batch, height, width, _ = sites.shape
        return FactoredLogits(
            sites.flatten(0, 2), self.class_weights()[None], self.bias[None], (batch, height, width)
        )

    def flops(self, sites: int) -> int:
        """2 · sites · r (width + K), whatever the patch; see :meth:`Head.flops`."""
        return 2 * sites * self.rank * (self.width + len(self.codebook))


class GeometricHead(FactoredHead):
    """A factored head that knows where the codes lie: w_k = φ(e_k) + u_k.

    φ is a small MLP of the standardised codeword, so that what is learned for one code moves the codes near
    it; u, zero at first, holds what is a code's own. Here the map to sites starts at zero instead of w: the
    first steps then go along φ, which all codes share, and u follows.

    Args:
        width: channels of the features.
        codebook: standardised codes ``[K, D]``; φ reads the buffer at each call.
        patch_size: p, sites per token along one side.
        rank: r, also the hidden width of φ.
    """

    def __init__(self, width: int, codebook: Tensor, patch_size: int, rank: int = 64) -> None:
        super().__init__(width, codebook, patch_size, rank)
        _zero(self.sites)
        self.phi = nn.Sequential(nn.Linear(codebook.shape[1], rank), nn.SiLU(), nn.Linear(rank, rank))

    def class_weights(self) -> Tensor:
        """φ(e_k) + u_k: ``[K, r]``."""
        return self.phi(self.codebook.to(self.weight.dtype)) + self.weight

    def flops(self, sites: int) -> int:
        """The factored head's, and 2 K r (D + r) for φ, which a batch shares; see :meth:`Head.flops`."""
        return super().flops(sites) + self.shared_flops()

    def shared_flops(self) -> int:
        """2 K r (D + r), for φ; see :meth:`Head.shared_flops`."""
        size, dim = self.codebook.shape
        return 2 * size * self.rank * (dim + self.rank)


class RegressionHead(Head):
    """A vector per site instead of a posterior, for the continuous baselines; zero at first."""

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__(width, codebook, patch_size)
        self.linear = _zero(nn.Linear(width, patch_size**2 * codebook.shape[1]))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``[B, h/p, w/p, width]`` → vectors, float32 ``[B, D, h, w]``."""
        vectors = to_sites(self.linear(features.to(self.linear.weight.dtype)), self.patch_size)
        return vectors.permute(0, 3, 1, 2).float()

    def flops(self, sites: int) -> int:
        """2 · sites · width · D; see :meth:`Head.flops`."""
        return 2 * sites * self.width * self.codebook.shape[1]


HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "factored": FactoredHead,
    "geometric": GeometricHead,
    "regression": RegressionHead,
}


def categorical_heads() -> list[str]:
    """Names of the heads that give a posterior."""
    return [name for name, kind in HEADS.items() if issubclass(kind, CategoricalHead)]
