"""Chunked operations over the vocabulary: no tensor of sites × codes exists outside one chunk.

At K = 16384 and 32×32 sites the logits of one image take 67 MB in float32, and a training step written down
plainly holds four to seven copies of them. Here they stay factored, features times class weights, and are
multiplied out for a few sites at a time: a chunk is turned into what is wanted of it (a loss and its gradient, or
statistics of the posterior) and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from purrception.flow import HeadLosses, SiteLosses
from purrception.flow.posterior import above_underflow_
from purrception.models.factored_logits import (
    EVERY,
    FactoredLogits,
    GroupedEvidence,
    statistics_type,
    working_type,
)
from purrception.utils.errors import InputError

Kernel = Literal["auto", "torch", "triton"]
"""What turns logits into losses and posteriors: torch operations on chunks, or :mod:`models.fused`; auto takes the
latter on a CUDA device that has Triton."""
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


@dataclass(frozen=True)
class SoftTargets:
    """A distribution over the codes to learn: y = (1 − share) 1_c + share π', with π' the posterior of a teacher.

    Its logits stay factored too, and take no gradient. They are of the same sites and codes, in as many groups.
    """

    logits: FactoredLogits
    """Of the teacher."""
    evidence: GroupedEvidence | None = None
    """Added to them."""
    share: float = 1.0
    """Of π' in y, in [0, 1]; the rest is the code itself."""

    def check(self, logits: FactoredLogits) -> None:
        """Refuse a share outside [0, 1], or targets that are not laid out like ``logits``.

        Raises:
            InputError: either of these.
        """
        if not 0 <= self.share <= 1:
            raise InputError(f"the share of soft targets lies in [0, 1]; given {self.share}")
        layouts = [(*each.bias.shape, len(each.rows)) for each in (self.logits, logits)]
        if layouts[0] != layouts[1]:
            raise InputError(
                f"soft targets are of as many (groups, codes, rows) as the logits that learn them; given "
                f"{layouts[0]} for {layouts[1]}: take a head of the same kind over the same codebook"
            )


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
        target = wanted[group, rows]
        correct = (sums.detach().argmax(dim=1) == target).to(own.dtype)
        return F.cross_entropy(sums, target, reduction="none"), drift, correct

    recompute = torch.is_grad_enabled()
    parts = [
        checkpoint(of_chunk, group, rows, use_reentrant=False) if recompute else of_chunk(group, rows)
        for group, rows in logits.chunks(3, chunk_bytes)
    ]
    nll, drift, correct = (torch.cat(column).view(wanted.shape) for column in zip(*parts, strict=True))
    return SiteLosses(*(logits.join(part) for part in (nll, drift, correct)))


Terms = Callable[[Tensor, Tensor | None, Tensor, Tensor, float, Tensor | None, float], tuple[Tensor, Tensor]]
"""As :func:`chunk_terms`."""


@dataclass(frozen=True)
class LossProblem:
    """What a total loss is of, beside the tensors that it is differentiated in."""

    sites: tuple[int, int, int]
    """(B, h, w)."""
    targets: Tensor
    """c, long ``[G, N]``."""
    weights: Tensor
    """w, float32 ``[G, N]``."""
    z_loss: float
    evidence: GroupedEvidence | None
    soft: SoftTargets | None
    terms: Terms
    kernel: Kernel
    chunk_bytes: int | None
    needs_gradient: bool


# A loop over chunks is no graph; what it does to each may be compiled by itself.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def total_loss(
    logits: FactoredLogits,
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    evidence: GroupedEvidence | None,
    terms: Terms,
    chunk_bytes: int | None = None,
    soft: SoftTargets | None = None,
    kernel: Kernel = "auto",
) -> HeadLosses:
    """Σ w (−Σ_k y_k ln π(k) + λ_z logsumexp²) over all sites, with its gradient found chunk by chunk on the way.

    The loss being one number, a chunk's gradient is known as soon as its logits are: nothing is kept for, or
    computed again in, the backward pass.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes c, long ``[B, h, w]``; y is 1 at c, unless there are soft targets.
        weights: w, float32 ``[B, h, w]``, without gradient.
        z_loss: λ_z.
        evidence: added to the logits, but not to those whose logsumexp is held down.
        terms: :func:`chunk_terms`, or what it was compiled to.
        chunk_bytes: memory of a chunk; left out, by the device.
        soft: a distribution y to learn; accuracy is of c all the same.
        kernel: what does the work; Triton's kernels leave float64 to torch.

    Raises:
        InputError: soft targets that do not fit; see :meth:`SoftTargets.check`.
    """
    if soft is not None:
        soft.check(logits)
    problem = LossProblem(
        logits.sites,
        logits.split(targets),
        logits.split(weights),
        z_loss,
        evidence,
        soft,
        terms,
        kernel,
        chunk_bytes,
        torch.is_grad_enabled(),
    )
    return HeadLosses(*_TotalLoss.apply(logits.rows, logits.weight, logits.bias, problem))


class _TotalLoss(torch.autograd.Function):
    """(rows, weight, bias) → the five numbers of :class:`HeadLosses`, of which only the total has a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, problem: LossProblem) -> tuple[Tensor, ...]:
        device = rows.device.type
        if not torch.amp.is_autocast_available(device):  # the meta device, where shapes are rehearsed
            device = "cpu"
        low = working_type(weight)
        logits = FactoredLogits(rows, weight, bias, problem.sites).detached(low)
        if problem.soft is not None:
            problem = replace(problem, soft=replace(problem.soft, logits=problem.soft.logits.detached(low)))
        with torch.autocast(device, enabled=False):
            sums, gradients = _accumulate(logits, problem)
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
        # Scaled in place: another copy of the weights' would be held.
        gradients, ctx.gradients = ctx.gradients, None
        return *(gradient.mul_(upstream[0].to(gradient.dtype)) for gradient in gradients), None


Slopes = Iterator[tuple[slice, Tensor, Tensor]]
"""Blocks of codes, the derivative of the loss in their logits ``[n, …]``, and its sum over the rows."""
Piece = tuple[int, slice, Tensor, Slopes]
"""A group, some of its rows, their figures (as :func:`chunk_terms`), and their slopes."""


def _accumulate(logits: FactoredLogits, problem: LossProblem) -> tuple[tuple[Tensor, ...], list[Tensor] | None]:
    """The sums over all chunks, and the gradients of the total in (rows, weight, bias)."""
    rows, weight = logits.rows, logits.weight
    exact = statistics_type(weight)
    gradients = None
    if problem.needs_gradient:
        gradients = [torch.zeros_like(tensor, dtype=exact) for tensor in (rows, weight, logits.bias)]
    figures = torch.zeros(4, dtype=exact, device=rows.device)
    for group, chosen, part, slopes in _pieces(logits, problem):
        figures += part
        if gradients is None:
            continue
        by_rows, by_weight, by_bias = gradients
        for codes, slope, total in slopes:
            by_bias[group, codes] += total
            by_rows[chosen] += slope @ weight[group, codes]
            if exact == weight.dtype:
                by_weight[group, codes].addmm_(slope.T, rows[chosen])
            else:
                by_weight[group, codes] += slope.T @ rows[chosen]
    cross_entropy, z_loss, drift, correct = figures
    return (cross_entropy + z_loss, cross_entropy, z_loss, drift, correct), gradients


def _pieces(logits: FactoredLogits, problem: LossProblem) -> Iterator[Piece]:
    """What becomes of the logits, part by part: by Triton's kernels where they are wanted, else chunk by chunk."""
    from purrception.models.fused import chosen, loss_fits, loss_pieces

    if chosen(problem.kernel, logits.weight.device) and loss_fits(logits, problem):
        yield from loss_pieces(logits, problem)
        return
    copies = 1 + (problem.evidence is not None) + (problem.soft is not None)
    for group, rows, blocks in logits.tiles(copies, problem.chunk_bytes):
        part, slopes = _terms_of_rows(logits, group, rows, blocks, problem)
        yield group, rows, part, ((codes, slope.to(logits.weight.dtype), slope.sum(0)) for codes, slope in slopes)


Blocks = Iterator[tuple[slice, Tensor]]
"""Blocks of codes, and the derivative of the loss in their logits, ``[n, …]``."""
Multiplied = tuple[Tensor, Tensor | None, Tensor | None]
"""Logits of some rows and codes: own, with evidence, the teacher's."""


def _terms_of_rows(
    logits: FactoredLogits, group: int, rows: slice, blocks: list[slice], problem: LossProblem
) -> tuple[Tensor, Blocks]:
    """The figures of :func:`chunk_terms` for some rows, and the derivative block by block."""
    targets = problem.targets[group, rows]
    weights = problem.weights[group, rows].to(statistics_type(logits.weight))
    soft = problem.soft
    share = 0.0 if soft is None else soft.share

    def multiplied_out(codes: slice) -> Multiplied:
        own = logits.own(group, rows, codes)
        sums = None if problem.evidence is None else problem.evidence.add_to(own, group, rows, codes)
        taught = None if soft is None else soft.logits.own(group, rows, codes)
        if taught is not None and soft is not None and soft.evidence is not None:
            taught = soft.evidence.add_to(taught, group, rows, codes)
        return own, sums, taught

    if len(blocks) > 1:
        return _tiled_terms(multiplied_out, blocks, targets, weights, problem.z_loss, share)
    own, sums, taught = multiplied_out(EVERY)
    figures, slope = problem.terms(own, sums, targets, weights, problem.z_loss, taught, share)
    return figures, iter([(EVERY, slope)])


def chunk_terms(
    own: Tensor,
    sums: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    taught: Tensor | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Losses of a chunk and their derivative in its own logits; all logits are overwritten.

    With p = softmax(own), q = softmax(sums), ℓ = logsumexp(own) and y = (1 − share) 1_c + share softmax(taught),
    the derivative of w (−Σ y ln q + λ_z ℓ²) is w (q − y + 2 λ_z ℓ p).

    Args:
        own: the network's logits ``[n, K]``.
        sums: those with evidence ``[n, K]``; none where there is no evidence.
        targets: c, long ``[n]``.
        weights: w, ``[n]``.
        z_loss: λ_z.
        taught: a teacher's logits ``[n, K]``; none for y = 1_c.
        share: of the teacher in y.

    Returns:
        (Σ w (−Σ y ln q), Σ w λ_z ℓ², Σ w ℓ, Σ w [argmax q = c]) as ``[4]``, and the derivative ``[n, K]``.
    """
    decided = own if sums is None else sums
    at_target = decided.gather(1, targets[:, None])[:, 0]
    top, best = decided.max(dim=1)
    correct = best == targets
    if taught is not None:
        _, taught, taught_total = _exponentials_(taught, taught.amax(1))
        at_target = at_target.lerp(torch.einsum("nk,nk->n", taught, decided) / taught_total, share)
    drift, p, own_total = _exponentials_(own, top if sums is None else own.amax(dim=1))
    normaliser, q, total = (drift, None, own_total) if sums is None else _exponentials_(sums, top)
    slope = _slope_(p, q, 2 * z_loss * drift * weights / own_total, weights / total)
    slope.scatter_add_(1, targets[:, None], -(weights * (1 - share))[:, None])
    if taught is not None:
        slope.addcmul_(taught, (weights / taught_total)[:, None], value=-share)
    return figures_of(normaliser - at_target, drift, correct, weights, z_loss), slope


def _tiled_terms(
    multiplied_out: Callable[[slice], Multiplied],
    blocks: list[slice],
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    share: float,
) -> tuple[Tensor, Blocks]:
    """As :func:`chunk_terms`, where the logits of the rows are never there all at once.

    ``multiplied_out`` gives those of a block: once for the normalisers, again for the derivative.
    """
    found = []
    for codes in blocks:
        own, sums, taught = multiplied_out(codes)
        decided = own if sums is None else sums
        inside, place = _within(codes, targets)
        at_target = torch.where(inside, decided.gather(1, place)[:, 0], 0)
        top, best = decided.max(dim=1)
        level = expected = top
        if taught is not None:
            level, taught, total = _exponentials_(taught, taught.amax(1))
            expected = torch.einsum("nk,nk->n", taught, decided) / total
        drift = _exponentials_(own, top if sums is None else own.amax(dim=1))[0]
        normaliser = drift if sums is None else _exponentials_(sums, top)[0]
        found.append((drift, normaliser, at_target, top, best + codes.start, level, expected))
    drifts, normalisers, at_targets, tops, bests, levels, expectations = (
        torch.stack(column) for column in zip(*found, strict=True)
    )
    drift, normaliser, level = drifts.logsumexp(0), normalisers.logsumexp(0), levels.logsumexp(0)
    correct = bests.gather(0, tops.argmax(0, keepdim=True))[0] == targets
    at_target = at_targets.sum(0)
    if share:
        at_target = at_target.lerp(((levels - level).exp() * expectations).sum(0), share)

    def slopes() -> Blocks:
        for codes in blocks:
            p, q, y = (
                None if logits is None else above_underflow_(logits.sub_(height[:, None])).exp_()
                for logits, height in zip(multiplied_out(codes), (drift, normaliser, level), strict=True)
            )
            assert p is not None
            slope = _slope_(p, q, 2 * z_loss * drift * weights, weights)
            inside, place = _within(codes, targets)
            slope.scatter_add_(1, place, -(weights * (1 - share) * inside)[:, None])
            yield codes, slope if y is None else slope.addcmul_(y, weights[:, None], value=-share)

    return figures_of(normaliser - at_target, drift, correct, weights, z_loss), slopes()


def _within(codes: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(whether a target is among ``codes``, its place there or any other place ``[n, 1]``)."""
    inside = (targets >= codes.start) & (targets < codes.stop)
    return inside, torch.where(inside, targets - codes.start, 0)[:, None]


def figures_of(nll: Tensor, drift: Tensor, correct: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    """The weighted sums of :func:`chunk_terms`, from what each site gives."""
    terms = (nll, z_loss * drift.square(), drift, correct.to(drift.dtype))
    return torch.stack([(weights * term).sum() for term in terms])


def _slope_(p: Tensor, q: Tensor | None, by_own: Tensor, by_sums: Tensor) -> Tensor:
    """by_own · p + by_sums · q, in place of q; of p, where there is no evidence and q is p."""
    if q is None:
        return p.mul_((by_own + by_sums)[:, None])
    return q.mul_(by_sums[:, None]).addcmul_(p, by_own[:, None])


def _exponentials_(logits: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logsumexp ``[n]``, exp(logits − top) in place of the logits ``[n, K]``, its sum).

    ``top`` is the largest logit of each row.
    """
    powers = above_underflow_(logits.sub_(top[:, None])).exp_()
    total = powers.sum(dim=1)
    return top + total.log(), powers, total
