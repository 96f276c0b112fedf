"""Chunked operations over the vocabulary: no tensor of sites × codes exists outside one chunk.

At K = 16384 and 32×32 sites the logits of one image take 67 MB in float32, and a training step written down
plainly holds four to seven copies of them. Here they stay factored, features times class weights, and are
multiplied out for a few sites at a time: a chunk is turned into what is wanted of it (a loss and its gradient, or
statistics of the posterior) and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from purrception.flow import Evidence, HeadLosses, Posterior, SiteLosses, TopCodes
from purrception.flow.evidence import evidence_columns

CHUNK_BYTES = {"cpu": 16 * 2**20}
"""Size of a chunk of logits by kind of device: what stays near a processor's caches."""
ACCELERATOR_CHUNK_BYTES = 512 * 2**20
"""On any other device: enough rows to keep it busy."""


def chunk_budget(device: str) -> int:
    """Bytes of a chunk of logits on a kind of device."""
    return CHUNK_BYTES.get(device, ACCELERATOR_CHUNK_BYTES)


@dataclass(frozen=True)
class FactoredLogits:
    """Logits not yet multiplied out: of group g, ``rows`` · ``weight[g]``ᵀ + ``bias[g]``.

    A group is a place within a patch. A head whose patch of p² sites shares one feature vector has p² groups
    of weights over N = B·h·w/p² rows; one with a feature vector per site has one group over B·h·w rows.
    """

    rows: Tensor
    """Features ``[N, r]``."""
    weight: Tensor
    """Class weights ``[G, K, r]``."""
    bias: Tensor
    """``[G, K]``."""
    sites: tuple[int, int, int]
    """(B, h, w)."""

    @property
    def _patch(self) -> int:
        return round(len(self.weight) ** 0.5)

    def split(self, sites: Tensor) -> Tensor:
        """``[B, h, w, …]`` → ``[G, N, …]``, the order of groups and rows."""
        batch, height, width = self.sites
        p = self._patch
        tail = sites.shape[3:]
        patches = sites.reshape(batch, height // p, p, width // p, p, *tail).movedim((2, 4), (0, 1))
        return patches.reshape(p * p, -1, *tail)

    def join(self, groups: Tensor) -> Tensor:
        """``[G, N, …]`` → ``[B, h, w, …]``; undoes :meth:`split`."""
        batch, height, width = self.sites
        p = self._patch
        tail = groups.shape[2:]
        patches = groups.reshape(p, p, batch, height // p, width // p, *tail).movedim((0, 1), (2, 4))
        return patches.reshape(batch, height, width, *tail)

    def chunks(self, copies: int, chunk_bytes: int | None = None) -> Iterator[tuple[int, slice]]:
        """(group, rows) of chunks so small that ``copies`` of their logits in float32 stay within the budget.

        A chunk holds at least one row, and all chunks but the last of a group are of one size.
        """
        budget = chunk_bytes or chunk_budget(self.rows.device.type)
        count = max(1, budget // (4 * copies * self.weight.shape[1]))
        for group in range(len(self.weight)):
            for start in range(0, len(self.rows), count):
                yield group, slice(start, min(start + count, len(self.rows)))

    def own(self, group: int, rows: slice) -> Tensor:
        """The logits of a chunk, ``[n, K]``, in float32 (float64 for a head in float64)."""
        logits = F.linear(self.rows[rows].to(self.weight.dtype), self.weight[group], self.bias[group])
        return logits.to(_statistics_type(self.weight))

    def full(self) -> Tensor:
        """All of them, ``[B, h, w, K]``: for tests and small vocabularies."""
        everything = slice(0, len(self.rows))
        return self.join(torch.stack([self.own(group, everything) for group in range(len(self.weight))]))


@dataclass(frozen=True)
class GroupedEvidence:
    """Evidence in the order of groups and rows."""

    coefficients: Tensor
    """``[G, N, D + 1]``."""
    columns: Tensor
    """(e_k, |e_k|²), ``[K, D + 1]``."""

    def add_to(self, logits: Tensor, group: int, rows: slice) -> Tensor:
        """Logits of a chunk with its evidence, ``[n, K]``; not in place, and never rounded by autocast."""
        with torch.autocast(logits.device.type, enabled=False):
            chosen, columns = self.coefficients[group, rows].to(logits), self.columns.to(logits)
            return torch.addmm(logits, chosen, columns.T)


def group_evidence(logits: FactoredLogits, evidence: Evidence | None, codebook: Tensor) -> GroupedEvidence | None:
    """``evidence`` in the order of ``logits``."""
    if evidence is None:
        return None
    return GroupedEvidence(logits.split(evidence.coefficients), evidence_columns(codebook))


def _statistics_type(weight: Tensor) -> torch.dtype:
    """Softmax and its kin are float32 whatever the network's precision (float64 in float64)."""
    return torch.promote_types(weight.dtype, torch.float32)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def site_losses(
    logits: FactoredLogits, targets: Tensor, evidence: GroupedEvidence | None, chunk_bytes: int | None = None
) -> SiteLosses:
    """Losses per site, differentiable: the backward pass multiplies each chunk out again.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes, long ``[B, h, w]``.
        evidence: added to the logits.
        chunk_bytes: memory of a chunk; left out, by the device.
    """
    wanted = logits.split(targets)

    def of_chunk(group: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        own = logits.own(group, rows)
        drift = own.logsumexp(dim=1)
        sums = own if evidence is None else evidence.add_to(own, group, rows)
        normaliser = drift if evidence is None else sums.logsumexp(dim=1)
        target = wanted[group, rows]
        correct = (sums.detach().argmax(dim=1) == target).to(own.dtype)
        return normaliser - sums.gather(1, target[:, None])[:, 0], drift, correct

    recompute = torch.is_grad_enabled()
    parts = [
        checkpoint(of_chunk, group, rows, use_reentrant=False) if recompute else of_chunk(group, rows)
        for group, rows in logits.chunks(3, chunk_bytes)
    ]
    nll, drift, correct = (torch.cat(column).view(wanted.shape) for column in zip(*parts, strict=True))
    return SiteLosses(*(logits.join(part) for part in (nll, drift, correct)))


Terms = Callable[[Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""As :func:`chunk_terms`."""


# A loop over chunks is no graph; what it does to each may be compiled by itself.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def total_loss(
    logits: FactoredLogits,
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    evidence: GroupedEvidence | None,
    chunk_bytes: int | None = None,
    terms: Terms | None = None,
) -> HeadLosses:
    """Σ w (−ln π(c) + λ_z logsumexp²) over all sites, with its gradient found chunk by chunk on the way.

    The loss being one number, a chunk's gradient is known as soon as its logits are: nothing is kept for, or
    computed again in, the backward pass.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes, long ``[B, h, w]``.
        weights: w, float32 ``[B, h, w]``, without gradient.
        z_loss: λ_z.
        evidence: added to the logits, but not to those whose logsumexp is held down.
        chunk_bytes: memory of a chunk; left out, by the device.
        terms: :func:`chunk_terms`, or what it was compiled to.
    """
    wanted, shares = logits.split(targets), logits.split(weights)
    needed = torch.is_grad_enabled()
    problem = _Problem(logits, wanted, shares, z_loss, evidence, chunk_bytes, needed, terms or chunk_terms)
    return HeadLosses(*_TotalLoss.apply(logits.rows, logits.weight, logits.bias, problem))


@dataclass(frozen=True)
class _Problem:
    """What :class:`_TotalLoss` is told beside the tensors it differentiates."""

    logits: FactoredLogits
    targets: Tensor
    weights: Tensor
    z_loss: float
    evidence: GroupedEvidence | None
    chunk_bytes: int | None
    needs_gradient: bool
    terms: Terms


class _TotalLoss(torch.autograd.Function):
    """(rows, weight, bias) → the five numbers of :class:`HeadLosses`, of which only the total has a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, problem: _Problem) -> tuple[Tensor, ...]:
        device = rows.device.type
        if not torch.amp.is_autocast_available(device):  # the meta device, where shapes are rehearsed
            device = "cpu"
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            sums, gradients = _accumulate(rows.detach().to(low), weight.detach().to(low), bias.detach(), problem)
        if gradients is not None:
            pairs = zip(gradients, (rows, weight, bias), strict=True)
            ctx.gradients = [gradient.to(like.dtype) for gradient, like in pairs]
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of the chunked loss was taken already: it is kept for one backward pass"
            )
        gradients, ctx.gradients = (
            ctx.gradients,
            None,
        )  # scaled in place: another copy of the weights' would be held
        return *(gradient.mul_(upstream[0].to(gradient.dtype)) for gradient in gradients), None


def _accumulate(
    rows: Tensor, weight: Tensor, bias: Tensor, problem: _Problem
) -> tuple[tuple[Tensor, ...], list[Tensor] | None]:
    """The sums over all chunks, and the gradients of the total in (rows, weight, bias)."""
    logits = FactoredLogits(rows, weight, bias.to(weight.dtype), problem.logits.sites)
    exact = _statistics_type(weight)
    gradients = None
    if problem.needs_gradient:
        gradients = [torch.zeros_like(tensor, dtype=exact) for tensor in (rows, weight, bias)]
    figures = torch.zeros(4, dtype=exact, device=rows.device)
    copies = 1 if problem.evidence is None else 2
    for group, chosen in logits.chunks(copies, problem.chunk_bytes):
        own = logits.own(group, chosen)
        sums = None if problem.evidence is None else problem.evidence.add_to(own, group, chosen)
        target, share = problem.targets[group, chosen], problem.weights[group, chosen].to(exact)
        part, slope = problem.terms(own, sums, target, share, problem.z_loss)
        figures += part
        if gradients is not None:
            by_rows, by_weight, by_bias = gradients
            by_bias[group] += slope.sum(0)
            slope = slope.to(weight.dtype)
            by_rows[chosen] += slope @ weight[group]
            if exact == weight.dtype:
                by_weight[group].addmm_(slope.T, rows[chosen])
            else:
                by_weight[group] += slope.T @ rows[chosen]
    cross_entropy, z_loss, drift, correct = figures
    return (cross_entropy + z_loss, cross_entropy, z_loss, drift, correct), gradients


def chunk_terms(
    own: Tensor, sums: Tensor | None, targets: Tensor, weights: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Losses of a chunk and their derivative in its own logits; both arguments are overwritten.

    With p = softmax(own), q = softmax(sums) and ℓ = logsumexp(own), the derivative of
    w (−ln q(c) + λ_z ℓ²) is w (q − 1_c + 2 λ_z ℓ p).

    Args:
        own: the network's logits ``[n, K]``.
        sums: those with evidence ``[n, K]``; none where there is no evidence.
        targets: c, long ``[n]``.
        weights: w, ``[n]``.
        z_loss: λ_z.

    Returns:
        (Σ w (−ln q(c)), Σ w λ_z ℓ², Σ w ℓ, Σ w [argmax q = c]) as ``[4]``, and the derivative ``[n, K]``.
    """
    decided = own if sums is None else sums
    at_target = decided.gather(1, targets[:, None])[:, 0]
    top, best = decided.max(dim=1)
    correct = best == targets
    drift, p = _softmax_(own, top if sums is None else own.amax(dim=1))
    pull = 2 * z_loss * drift
    if sums is None:
        normaliser, slope = drift, p.mul_((weights * (1 + pull))[:, None])
    else:
        normaliser, q = _softmax_(sums, top)
        slope = q.mul_(weights[:, None]).addcmul_(p, (weights * pull)[:, None])
    slope.scatter_add_(1, targets[:, None], -weights[:, None])
    terms = (normaliser - at_target, z_loss * drift.square(), drift, correct.to(drift.dtype))
    return torch.stack([(weights * term).sum() for term in terms]), slope


def _softmax_(logits: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """(logsumexp ``[n]``, softmax ``[n, K]`` in place of the logits), given the largest logit of each row."""
    weights = logits.sub_(top[:, None]).exp_()
    total = weights.sum(dim=1)
    return top + total.log(), weights.div_(total[:, None])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_posterior(
    logits: FactoredLogits,
    evidence: GroupedEvidence | None,
    statistics: Callable[[Tensor, Tensor | None], Posterior],
    uniforms: Tensor | None,
    chunk_bytes: int | None = None,
) -> Posterior:
    """Posterior statistics of every site, a chunk of logits at a time.

    Args:
        logits: of B×h×w sites over K codes.
        evidence: added to the logits.
        statistics: (logits ``[1, 1, n, K]``, uniforms ``[1, 1, n]``) → posterior.
        uniforms: ``[B, h, w]``, to draw a code of each site.
        chunk_bytes: memory of a chunk; left out, by the device.
    """
    chances = None if uniforms is None else logits.split(uniforms)
    parts = []
    for group, rows in logits.chunks(4, chunk_bytes):
        chunk = logits.own(group, rows)
        if evidence is not None:
            chunk = evidence.add_to(chunk, group, rows)
        drawn = None if chances is None else chances[None, None, group, rows]
        with torch.autocast(chunk.device.type, enabled=False):  # or the mean would be rounded
            parts.append(statistics(chunk[None, None], drawn))

    def joined(of_chunk: Callable[[Posterior], Any]) -> Tensor:
        """``[1, 1, n, …]`` of every chunk → ``[B, h, w, …]``."""
        values = torch.cat([of_chunk(part)[0, 0] for part in parts])
        return logits.join(values.unflatten(0, (len(logits.weight), len(logits.rows))))

    top = None
    if parts[0].top is not None:
        top = TopCodes(joined(attrgetter("top.codes")), joined(attrgetter("top.probabilities")))
    return Posterior(
        mean=joined(lambda part: part.mean.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        entropy=joined(attrgetter("entropy")),
        max_probability=joined(attrgetter("max_probability")),
        codes=joined(attrgetter("codes")),
        drawn=None if uniforms is None else joined(attrgetter("drawn")),
        top=top,
    )
