"""Heads: features of each patch → a categorical posterior over the codebook, or a vector, per site.

Every head is affine in the features, so that guidance may act on them (see :class:`flow.Guidance`), and its output
starts at zero: the first posterior is uniform, and the first cross-entropy is ln K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
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
    ChunkTerms,
    SoftTargets,
    chunk_terms,
    chunked_loss,
    site_losses,
    torch_loss_chunks,
)
from purrception.models.chunked_posterior import SumsFunction, chunked_posterior
from purrception.models.factored_logits import FactoredLogits
from purrception.models.fused import (
    check_kernel,
    fits_loss,
    fits_posterior,
    triton_loss_chunks,
    triton_posterior,
    uses_triton,
)
from purrception.models.settings import HeadConfig, Kernel


def to_sites(patches: Tensor, patch_size: int) -> Tensor:
    """Split the channels of patches among their sites: ``[B, h/p, w/p, p² C]`` → ``[B, h, w, C]``."""
    p = patch_size
    batch, height, width, channels = patches.shape
    sites = patches.view(batch, height, width, p, p, channels // p**2)
    return sites.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * p, width * p, -1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Head(nn.Module, ABC):
    """What all heads have: the codebook, and a cost.

    Args:
        width: channels of the features.
        codebook: standardised codes, float32 ``[K, D]``; kept as a buffer, so that the codes that are
            averaged are the codes of the data.
        patch_size: p, sites of a patch along one side.
    """

    codebook: Tensor

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__()
        self.width, self.patch_size = width, patch_size
        self.register_buffer("codebook", codebook.float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and cast like any module, but keep the codes in float32: they are data, and are never rounded."""
        exact = self.codebook
        super()._apply(fn, recurse)
        if self.codebook.dtype != exact.dtype:
            self.codebook = exact.to(self.codebook.device)
        return self

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings, float32 ``[B, D, h, w]``."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2).contiguous()

    def parameter_count(self) -> int:
        """Number of learned parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def flops(self, sites: int) -> int:
        """Floating-point operations (two for a multiply–add) in the matrix products of one forward pass.

        Args:
            sites: h·w of one image.
        """

    def shared_flops(self) -> int:
        """The part of :meth:`flops` that a whole batch needs only once."""
        return 0


class CategoricalHead(Head):
    """A head whose logits make a posterior over the K codes, one per site.

    With evidence, the posterior is softmax(own logits + evidence): the head then learns only what the other sites
    and the label say of a code, and what z_t says is exact. Guidance extrapolates the features, and the evidence
    is added once afterwards; this equals extrapolating the sums, because the weights of guidance add up to one.
    """

    chunk_bytes: int | None = None
    """Memory of a chunk of logits; if none, it depends on the device."""
    terms: ChunkTerms = staticmethod(chunk_terms)
    """Turns a chunk into losses and their derivative; see :meth:`compile_chunks`."""
    sums: SumsFunction = PosteriorSums.of
    """Turns a tile into the sums of a posterior; see :meth:`compile_chunks`."""
    kernel: Kernel = "auto"
    """See :meth:`use_kernel`."""

    def compile_chunks(self, backend: str = "inductor") -> None:
        """Compile what :meth:`loss` and :meth:`posterior` do with a chunk of logits (torch.compile)."""
        self.terms = torch.compile(chunk_terms, backend=backend)
        self.sums = torch.compile(PosteriorSums.of, backend=backend)

    def use_kernel(self, kernel: Kernel) -> None:
        """Choose what computes :meth:`loss` and :meth:`posterior`; call it on the final device.

        Args:
            kernel: torch (operations on chunks of logits), triton (:mod:`models.fused`; what its kernels cannot do
                stays with torch), or auto: triton where there is a CUDA device that has it.

        Raises:
            InputError: an unknown kernel, or one that cannot run where the head is.
        """
        check_kernel(kernel, self.codebook.device)
        self.kernel = kernel

    @abstractmethod
    def factors(self, features: Tensor) -> FactoredLogits:
        """Own logits, affine in the features ``[B, h/p, w/p, width]``, before they are multiplied out."""

    def logits(self, features: Tensor) -> Tensor:
        """Own logits ``[B, h, w, K]``, all at once: for tests and small codebooks."""
        return self.factors(features).full()

    def _factors(self, features: Tensor, evidence: Evidence | None) -> FactoredLogits:
        """Own logits and evidence, before they are multiplied out."""
        return self.factors(features).with_evidence(evidence, self.codebook)

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

        :func:`purrception.models.chunked_loss.plain_loss` is the definition. The z-loss keeps the network's own
        logits from drifting; it leaves out the evidence, which would dominate it near t = 1 (10⁴ and more).

        Args:
            features: ``[B, h/p, w/p, width]``.
            targets: codes, long ``[B, h, w]``.
            z_loss: λ_z.
            evidence: evidence in the state that the features were computed from.
            weights: weights of the sites, ``[B, h, w]``; the mean is taken if left out.
            soft: a distribution over the codes to learn, in addition to ``targets`` or in place of them; see
                :meth:`soft_targets`.

        Raises:
            InputError: soft targets of another layout.
        """
        if weights is None:
            weights = torch.full(targets.shape, 1 / targets.numel(), device=targets.device)
        logits = self._factors(features, evidence)
        fused = uses_triton(self.kernel, self.codebook.device) and fits_loss(logits, soft)
        chunks = triton_loss_chunks if fused else partial(torch_loss_chunks, terms=self.terms)
        return chunked_loss(logits, targets, weights, z_loss, soft, self.chunk_bytes, chunks)

    @torch.no_grad()
    def soft_targets(self, features: Tensor, evidence: Evidence | None = None, share: float = 1.0) -> SoftTargets:
        """This head's posterior as the target of another head of its kind, without a gradient.

        Args:
            features: ``[B, h/p, w/p, width]``, from this head's network.
            evidence: evidence in the state that they were computed from.
            share: share of the posterior in the target; the rest is the code itself.
        """
        return SoftTargets(self._factors(features, evidence), share)

    def nll(self, features: Tensor, targets: Tensor, evidence: Evidence | None = None) -> SiteLosses:
        """Negative log-likelihood of ``targets`` per site under softmax(own logits + evidence), in float32.

        The arguments are those of :meth:`loss`, which is cheaper where one number is enough.
        """
        return site_losses(self._factors(features, evidence), targets, self.chunk_bytes)

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

        With ``uniforms`` ``[B, h, w]`` a code of each site is also drawn; with ``top`` that many of the likeliest
        codes are also named.

        τ divides the evidence too: it belongs to the posterior, π^(1/τ), and means the same as for a head that had
        to learn the evidence. Dividing the own logits alone would temper the prior, which has no effect as t → 1,
        where the evidence decides.

        Raises:
            InputError: the temperature is not positive.
        """
        logits, codes = self._factors(features, evidence), self.codebook
        if uses_triton(self.kernel, codes.device) and fits_posterior(logits, codes, truncation, uniforms, top):
            return triton_posterior(logits, codes, temperature, self.chunk_bytes)
        return chunked_posterior(
            logits, codes, temperature, truncation, uniforms, top, self.chunk_bytes, self.sums
        )


class LinearHead(CategoricalHead):
    """The paper's head: one linear map from a patch's features to K logits for each of its p² sites."""

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__(width, codebook, patch_size)
        self.linear = _zero(nn.Linear(width, patch_size**2 * len(codebook)))

    def factors(self, features: Tensor) -> FactoredLogits:
        """One row for each patch, and one group of class weights for each site of a patch."""
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
    """Patch → r features per site → logits through one vector per code, shared by all sites of a patch.

    The logit of code k is s·w_k + b_k. The parameters are (width + 1) p² r + K (r + 1), where the linear head
    has (width + 1) p² K. Only w and b start at zero, so that they learn from the first step on, and the map
    to sites from the second.

    Args:
        width: channels of the features.
        codebook: standardised codes ``[K, D]``.
        patch_size: p, sites of a patch along one side.
        rank: r.
    """

    def __init__(self, width: int, codebook: Tensor, patch_size: int, rank: int = 64) -> None:
        super().__init__(width, codebook, patch_size)
        self.rank = rank
        self.sites = nn.Linear(width, patch_size**2 * rank)
        self.weight = nn.Parameter(torch.zeros(len(codebook), rank))
        self.bias = nn.Parameter(torch.zeros(len(codebook)))

    def site_features(self, features: Tensor) -> Tensor:
        """s: ``[B, h/p, w/p, width]`` → ``[B, h, w, r]``."""
        return to_sites(self.sites(features.to(self.sites.weight.dtype)), self.patch_size)

    def class_weights(self) -> Tensor:
        """w, one vector per code: ``[K, r]``."""
        return self.weight

    def factors(self, features: Tensor) -> FactoredLogits:
        """One row for each site, and a single group of class weights."""
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

    φ is a small MLP of the standardised codeword, so that what is learned for one code also moves the codes near
    it; u, zero at first, holds what is specific to a code. Here the map to sites starts at zero instead of w: the
    first steps then change φ, which all codes share, and u follows.

    Args:
        width: channels of the features.
        codebook: standardised codes ``[K, D]``; φ reads the buffer at each call.
        patch_size: p, sites of a patch along one side.
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
        """Those of the factored head, and 2 K r (D + r) for φ, once a batch; see :meth:`Head.flops`."""
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


def build_head(config: HeadConfig, width: int, codebook: Tensor, patch_size: int) -> Head:
    """The head for features of ``width`` channels over a standardised ``codebook`` ``[K, D]``."""
    kind = HEADS[config.kind]
    if issubclass(kind, FactoredHead):
        return kind(width, codebook, patch_size, config.rank)
    return kind(width, codebook, patch_size)
