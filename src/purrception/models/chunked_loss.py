"""The loss of a categorical head: the definition on full logits, and the same loss a chunk of logits at a time.

:func:`plain_loss` is the definition. At K = 16384 and 32×32 sites, however, the logits of one image take 67 MB in
float32, and its training step holds four to seven copies of them. :func:`chunked_loss` and :mod:`models.fused`
give the same numbers and gradients from factored logits (features times class weights), which are multiplied out
for a few sites at a time: each chunk becomes its part of the loss and of the gradient, and is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from purrception.flow import HeadLosses, SiteLosses
from purrception.flow.posterior import above_underflow_
from purrception.models.factored_logits import ALL, FactoredLogits, statistics_type, working_type
from purrception.utils.devices import full_precision
from purrception.utils.errors import InputError


def plain_loss(
    own: Tensor,
    c: Tensor,
    w: Tensor,
    z_loss: float = 0.0,
    evidence: Tensor | None = None,
    y: Tensor | None = None,
) -> HeadLosses:
    """L = Σ w (−Σ_k y_k ln π(k) + λ_z (ln Σ_k exp a_k)²) over all sites, with π = softmax(a + evidence).

    Args:
        own: a, the network's own logits ``[B, h, w, K]``.
        c: codes of the data, long ``[B, h, w]``.
        w: weights of the sites ``[B, h, w]``; 1/(B h w) each for a mean.
        z_loss: λ_z.
        evidence: ln N(z_t ; t e_k, (1 − t)² I) of each code ``[B, h, w, K]``; see :class:`flow.Evidence`.
        y: the distribution to learn ``[B, h, w, K]``; without it, y is 1 at c and the first term is −ln π(c).
    """
    logits = own if evidence is None else own + evidence
    log_pi = logits.log_softmax(-1)
    nll = -log_pi.gather(-1, c[..., None])[..., 0] if y is None else -(y * log_pi).sum(-1)
    logsumexp = own.logsumexp(-1)
    cross_entropy = (w * nll).sum()
    penalty = z_loss * (w * logsumexp.square()).sum()
    accuracy = (w * (logits.argmax(-1) == c)).sum()
    return HeadLosses(cross_entropy + penalty, cross_entropy, penalty, (w * logsumexp).sum(), accuracy)


@dataclass(frozen=True)
class SoftTargets:
    """A distribution over the codes to learn: y = (1 − share) 1_c + share π', with π' the posterior of a teacher.

    The teacher's logits stay factored too, and take no gradient. They are laid out like those that learn them.
    """

    logits: FactoredLogits
    """The teacher's logits, with its evidence."""
    share: float = 1.0
    """Share of π' in y, in [0, 1]; the rest is the code itself."""

    def check(self, logits: FactoredLogits) -> None:
        """Refuse a share outside [0, 1], or a teacher whose logits are not laid out like ``logits``.

        Raises:
            InputError: either of these.
        """
        if not 0 <= self.share <= 1:
            raise InputError(f"the share of soft targets lies in [0, 1]; given {self.share}")
        layouts = [(*each.bias.shape, len(each.rows)) for each in (self.logits, logits)]
        if layouts[0] != layouts[1]:
            raise InputError(
                f"soft targets have as many (groups, codes, rows) as the logits that learn them; given "
                f"{layouts[0]} for {layouts[1]}: take a head of the same kind over the same codebook"
            )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def site_losses(logits: FactoredLogits, targets: Tensor, chunk_bytes: int | None = None) -> SiteLosses:
    """Losses per site, differentiable: the backward pass multiplies each chunk out again.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes, long ``[B, h, w]``.
        chunk_bytes: memory of a chunk of logits; by default it depends on the device.
    """
    grouped = logits.split(targets)

    def of_chunk(group: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        own, total = logits.own_and_sum(group, rows)
        total = own if total is None else total
        target = grouped[group, rows]
        correct = (total.detach().argmax(dim=1) == target).to(own.dtype)
        return F.cross_entropy(total, target, reduction="none"), own.logsumexp(dim=1), correct

    recompute = torch.is_grad_enabled()
    parts = [
        checkpoint(of_chunk, group, rows, use_reentrant=False) if recompute else of_chunk(group, rows)
        for group, rows in logits.chunks(3, chunk_bytes)
    ]
    return SiteLosses(*(logits.join(torch.cat(column).view(grouped.shape)) for column in zip(*parts, strict=True)))


class ChunkLoss(NamedTuple):
    """The loss of some rows of a group, and its derivative."""

    group: int
    rows: slice
    sums: Tensor
    """As :func:`weighted_sums`, ``[4]``."""
    derivative: Iterator[tuple[slice, Tensor, Tensor]]
    """Blocks of codes, the derivative of the loss in their logits ``[n, …]``, and its sum over the rows."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss needs besides the logits that it is differentiated in."""

    targets: Tensor
    """c, long ``[G, N]``."""
    weights: Tensor
    """w, float32 ``[G, N]``."""
    z_loss: float
    soft: SoftTargets | None
    needs_gradient: bool
    chunk_bytes: int | None


LossChunks = Callable[[FactoredLogits, LossInputs], Iterator[ChunkLoss]]
"""Computes the losses of all logits: :func:`torch_loss_chunks`, or :func:`models.fused.triton_loss_chunks`."""


# A loop over chunks is no graph; what it does to each chunk may be compiled separately.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_loss(
    logits: FactoredLogits,
    targets: Tensor,
    weights: Tensor,
    z_loss: float = 0.0,
    soft: SoftTargets | None = None,
    chunk_bytes: int | None = None,
    chunks: LossChunks | None = None,
) -> HeadLosses:
    """:func:`plain_loss`, with the gradient of the total computed chunk by chunk in the forward pass.

    The loss is one number, so the gradient of a chunk is known as soon as its logits are: nothing is kept for the
    backward pass, or computed again in it.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes c, long ``[B, h, w]``; y is 1 at c, unless there are soft targets.
        weights: w, float32 ``[B, h, w]``, without gradient.
        z_loss: λ_z.
        soft: a distribution y to learn; accuracy is still that of c.
        chunk_bytes: memory of a chunk of logits; by default it depends on the device.
        chunks: what computes the chunks; :func:`torch_loss_chunks` if left out.

    Raises:
        InputError: soft targets that do not fit; see :meth:`SoftTargets.check`.
    """
    if soft is not None:
        soft.check(logits)
    inputs = LossInputs(
        logits.split(targets), logits.split(weights), z_loss, soft, torch.is_grad_enabled(), chunk_bytes
    )
    chunks = chunks or torch_loss_chunks
    return HeadLosses(*_ChunkedLoss.apply(logits.rows, logits.weight, logits.bias, logits, inputs, chunks))


class _ChunkedLoss(torch.autograd.Function):
    """(rows, weight, bias) → the five numbers of :class:`HeadLosses`, of which only the total has a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        logits: FactoredLogits,
        inputs: LossInputs,
        chunks: LossChunks,
    ) -> tuple[Tensor, ...]:
        low = working_type(weight)
        logits = logits.detached(low)
        if inputs.soft is not None:
            inputs = replace(inputs, soft=replace(inputs.soft, logits=inputs.soft.logits.detached(low)))
        exact = statistics_type(logits.weight)
        sums = torch.zeros(4, dtype=exact, device=rows.device)
        learned = (rows, weight, bias) if inputs.needs_gradient else ()
        gradients = [torch.zeros_like(tensor, dtype=exact) for tensor in learned]
        with full_precision(rows.device):
            for chunk in chunks(logits, inputs):
                sums += chunk.sums
                if not gradients:
                    continue
                by_rows, by_weight, by_bias = gradients
                features = logits.rows[chunk.rows]
                for codes, derivative, total in chunk.derivative:
                    by_bias[chunk.group, codes] += total
                    by_rows[chunk.rows] += derivative @ logits.weight[chunk.group, codes]
                    if exact == low:
                        by_weight[chunk.group, codes].addmm_(derivative.T, features)
                    else:
                        by_weight[chunk.group, codes] += derivative.T @ features
        ctx.gradients = [gradient.to(like.dtype) for gradient, like in zip(gradients, learned, strict=True)]
        cross_entropy, z_loss, logsumexp, correct = sums
        ctx.mark_non_differentiable(cross_entropy, z_loss, logsumexp, correct)
        return cross_entropy + z_loss, cross_entropy, z_loss, logsumexp, correct

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of the chunked loss was taken already: it is kept for one backward pass"
            )
        # Scaled in place, since a copy of the class weights' gradient is large.
        gradients, ctx.gradients = ctx.gradients, None
        return *(gradient.mul_(upstream[0].to(gradient.dtype)) for gradient in gradients), None, None, None


Block = tuple[Tensor, Tensor | None, Tensor | None]
"""Of some rows and codes: the network's own logits ``[n, k]``, those with evidence, and the teacher's; none where
there is no evidence or no teacher."""
ChunkTerms = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
"""As :func:`chunk_terms`."""


def torch_loss_chunks(
    logits: FactoredLogits, inputs: LossInputs, terms: ChunkTerms | None = None
) -> Iterator[ChunkLoss]:
    """The losses of all logits by torch operations; ``terms`` is :func:`chunk_terms`, or its compiled form."""
    soft = inputs.soft
    share = 0.0 if soft is None else soft.share
    copies = 1 + (logits.evidence is not None) + (soft is not None)
    low = logits.weight.dtype
    for group, rows, blocks in logits.tiles(copies, inputs.chunk_bytes):
        targets = inputs.targets[group, rows]
        weights = inputs.weights[group, rows].to(statistics_type(logits.weight))
        multiply_out = partial(_multiply_out, logits, soft, group, rows)
        derivatives: Iterator[tuple[slice, Tensor]]
        if len(blocks) == 1:
            sums, derivative = (terms or chunk_terms)(*multiply_out(ALL), targets, weights, inputs.z_loss, share)
            derivatives = iter([(ALL, derivative)])
        else:
            sums, derivatives = _tiled_terms(multiply_out, blocks, targets, weights, inputs.z_loss, share)
        yield ChunkLoss(group, rows, sums, ((codes, each.to(low), each.sum(0)) for codes, each in derivatives))


def _multiply_out(
    logits: FactoredLogits, soft: SoftTargets | None, group: int, rows: slice, codes: slice
) -> Block:
    return *logits.own_and_sum(group, rows, codes), None if soft is None else soft.logits.chunk(group, rows, codes)


def chunk_terms(
    own: Tensor,
    total: Tensor | None,
    teacher: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    z_loss: float = 0.0,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss of a chunk and its derivative in the network's own logits; all logits are overwritten.

    Args:
        own: the network's own logits ``[n, K]``.
        total: those with evidence ``[n, K]``; none where there is no evidence.
        teacher: a teacher's logits ``[n, K]``; none for y = 1_c.
        targets: c, long ``[n]``.
        weights: w, ``[n]``.
        z_loss: λ_z.
        share: share of the teacher in y.

    Returns:
        The sums of :func:`weighted_sums`, and the derivative ``[n, K]``; see :func:`_derivative_`.
    """
    found, exponentials, factors = _statistics_((own, total, teacher), targets, slice(0, own.shape[1]))
    by_own = 2 * z_loss * found.logsumexp
    derivative = _derivative_(exponentials, factors, by_own, targets[:, None], weights, weights, share)
    nll = found.normaliser - found.at_target.lerp(found.expected, share)
    return weighted_sums(nll, found.logsumexp, found.best == targets, weights, z_loss), derivative


def _tiled_terms(
    multiply_out: Callable[[slice], Block],
    blocks: list[slice],
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    share: float,
) -> tuple[Tensor, Iterator[tuple[slice, Tensor]]]:
    """:func:`chunk_terms` where the logits of the rows never exist all at once.

    ``multiply_out`` gives the logits of a block of codes: once for the statistics, again for the derivative.
    """
    found = [_statistics_(multiply_out(codes), targets, codes)[0] for codes in blocks]
    tiles = _Statistics(*(torch.stack(column) for column in zip(*found, strict=True)))
    logsumexp, normaliser, teacher = (part.logsumexp(0) for part in tiles[:3])
    best = tiles.best.gather(0, tiles.top.argmax(0, keepdim=True))[0]
    expected = ((tiles.teacher - teacher).exp() * tiles.expected).sum(0)
    nll = normaliser - tiles.at_target.sum(0).lerp(expected, share)

    def derivatives() -> Iterator[tuple[slice, Tensor]]:
        one, by_own = torch.ones_like(weights), 2 * z_loss * logsumexp
        for codes in blocks:
            own, total, taught = multiply_out(codes)
            p = _exponentials_(own, logsumexp)
            q = None if total is None else _exponentials_(total, normaliser)
            y = None if taught is None else _exponentials_(taught, teacher)
            inside, place = _within(codes, targets)
            yield codes, _derivative_((p, q, y), (one, one, one), by_own, place, weights * inside, weights, share)

    return weighted_sums(nll, logsumexp, best == targets, weights, z_loss), derivatives()


class _Statistics(NamedTuple):
    """What the loss of some rows needs to know of their logits over some codes, each ``[n]``."""

    logsumexp: Tensor
    """Of the network's own logits: ℓ."""
    normaliser: Tensor
    """Logsumexp of the logits with evidence."""
    teacher: Tensor
    """Logsumexp of the teacher's logits; without a teacher, anything finite."""
    at_target: Tensor
    """The logit of the target; 0 where the target is not among these codes."""
    expected: Tensor
    """The mean of the logits over the teacher's softmax; without a teacher, anything finite."""
    top: Tensor
    """The largest logit."""
    best: Tensor
    """Its code."""


def _statistics_(
    block: Block, targets: Tensor, codes: slice
) -> tuple[_Statistics, Block, tuple[Tensor, Tensor, Tensor]]:
    """Statistics of the logits ``block`` of ``codes``, their exponentials in place of them, and what makes
    softmaxes of the exponentials: a factor for each row."""
    own, total, teacher = block
    logits = own if total is None else total
    inside, place = _within(codes, targets)
    at_target = torch.where(inside, logits.gather(1, place)[:, 0], 0)
    top, best = logits.max(dim=1)
    level, expected, y_sum = top, top, torch.ones_like(top)
    y = None
    if teacher is not None:
        level = teacher.amax(1)
        y = _exponentials_(teacher, level)
        y_sum = y.sum(dim=1)
        level, expected = level + y_sum.log(), torch.einsum("nk,nk->n", y, logits) / y_sum
    own_top = top if total is None else own.amax(dim=1)
    p = _exponentials_(own, own_top)
    p_sum = q_sum = p.sum(dim=1)
    q = None
    if total is not None:
        q = _exponentials_(total, top)
        q_sum = q.sum(dim=1)
    found = _Statistics(
        own_top + p_sum.log(), top + q_sum.log(), level, at_target, expected, top, best + codes.start
    )
    return found, (p, q, y), (1 / p_sum, 1 / q_sum, 1 / y_sum)


def _derivative_(
    exponentials: Block,
    factors: tuple[Tensor, Tensor, Tensor],
    by_own: Tensor,
    place: Tensor,
    at_place: Tensor,
    weights: Tensor,
    share: float,
) -> Tensor:
    """w (q − y + 2 λ_z ℓ p): the derivative of w (−Σ y ln q + λ_z ℓ²) in the network's own logits.

    Here p = softmax(own), q = softmax(own + evidence), ℓ = logsumexp(own), and y = (1 − share) 1_c + share π'.

    Args:
        exponentials: p, q and π' up to a factor for each row ``[n, k]``; overwritten. No q where it is p.
        factors: these factors, each ``[n]``.
        by_own: 2 λ_z ℓ, ``[n]``.
        place: where c is among the codes, ``[n, 1]``.
        at_place: w, but 0 where c is not among the codes.
        weights: w, ``[n]``.
        share: share of the teacher in y.
    """
    p, q, y = exponentials
    by_p, by_q, by_y = factors
    if q is None:
        derivative = p.mul_((weights * (1 + by_own) * by_p)[:, None])
    else:
        derivative = q.mul_((weights * by_q)[:, None]).addcmul_(p, (weights * by_own * by_p)[:, None])
    derivative.scatter_add_(1, place, -((1 - share) * at_place)[:, None])
    return derivative if y is None else derivative.addcmul_(y, (weights * by_y)[:, None], value=-share)


def _exponentials_(logits: Tensor, level: Tensor) -> Tensor:
    """exp(logits − level) in place of the logits ``[n, k]``, with a level ``[n]`` near the largest of each row."""
    return above_underflow_(logits.sub_(level[:, None])).exp_()


def _within(codes: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(whether a target is among ``codes``, its place there or any other place ``[n, 1]``)."""
    inside = (targets >= codes.start) & (targets < codes.stop)
    return inside, torch.where(inside, targets - codes.start, 0)[:, None]


def weighted_sums(nll: Tensor, logsumexp: Tensor, correct: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    """(Σ w nll, Σ w λ_z ℓ², Σ w ℓ, Σ w [argmax q = c]) over some rows, ``[4]``; ℓ is ``logsumexp``."""
    terms = (nll, z_loss * logsumexp.square(), logsumexp, correct.to(logsumexp.dtype))
    return torch.stack([(weights * term).sum() for term in terms])
