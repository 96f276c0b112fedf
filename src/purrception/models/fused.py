"""Losses and posteriors over the codebook by Triton kernels: launches :mod:`models.kernels`, adds up its results.

A training step of XL/2 on 64 images (N = 16384 rows of r = 1152 channels, 4 groups, K = 16384) has 1.07e9 logits:
2.1 GB in 16 bits, 4.3 GB in 32. On an H100, by arithmetic (650 of its 989 TFLOP/s reached by a matrix product, 2.8
of its 3.35 TB/s by memory; measured were 25.0 ms for torch on chunks, compiled, and 18.5 ms for these kernels
through a chunk, see docs/results/performance.md):

- each product of that size, 2 · 1.07e9 · r = 2.5 TFLOP, takes 3.8 ms; a step has three (the logits, and the two
  gradients), 11.4 ms;
- torch on chunks, compiled, moves about 34 GB in addition, 65 GB with evidence, mostly chunks in float32: 12 and
  23 ms;
- multiplied out on chip, twice (for the normalisers and for the derivative), so that only the derivative is ever
  in memory, in 16 bits: almost no traffic but one more product, at least 3.8 ms, nearer to 5 in Triton: 16.5 ms;
- multiplied out once, by cuBLAS, into a chunk in 16 bits that a kernel reads twice and overwrites with the
  derivative: 6.4 GB, 2.3 ms: 14 ms.

A product costs 2r/650e12 s a logit and the chunk 6/2.8e12 s, which is equal at r ≈ 700, or nearer to 500 at
Triton's speed. So heads of few channels stay on chip, and wide ones go through a chunk: :data:`ON_CHIP_WIDTH`.
Evidence and soft targets add multiply-adds and exponentials (1.07e9 exponentials: 0.3 ms), but no pass over
memory, except for the chunk of a wide teacher. The posterior multiplies out once in either form, and stays on chip
at any width.

The gradients are cuBLAS products of the derivative: an accumulator of a block of rows by r = 1152 in float32,
295 KB for 64 rows, fits no processor's registers. There are no atomics: sums over rows and over parts of the codes
are stored separately and added up in order, so equal inputs give equal bits.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import get_args

import torch
from torch import Tensor

from purrception.flow import Posterior, PosteriorSums, Truncation
from purrception.flow.temperature import check_temperature
from purrception.flow.truncation import keeps_all
from purrception.models.chunked_loss import ChunkLoss, LossInputs, SoftTargets, weighted_sums
from purrception.models.chunked_posterior import join_posteriors
from purrception.models.factored_logits import ALL, FactoredLogits, chunk_budget, slices, working_type
from purrception.models.settings import Kernel
from purrception.utils.errors import InputError, unknown_name

KERNELS: tuple[Kernel, ...] = get_args(Kernel)
ON_CHIP_WIDTH = {2: 512, 4: 0}
"""Most channels, by bytes of a number, at which the loss multiplies logits out twice rather than keep a chunk."""
POSTERIOR_ON_CHIP_WIDTH = {2: 1 << 20, 4: 0}
"""The same for the posterior. In float32 cuBLAS is faster by more than a chunk costs."""
MAX_DIMENSIONS = 32
"""Most dimensions of a code for which a kernel takes evidence and means; its loop over them is unrolled."""
PROGRAMS = 512
"""Programs that a posterior is spread over: about four for each multiprocessor of a large GPU."""


@dataclass(frozen=True)
class Tile:
    """Sizes of a tile of logits, and of the program that computes it."""

    rows: int
    codes: int
    channels: int
    """Channels multiplied at a time; 0: logits are read from a chunk."""
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """The sizes as Triton's launch takes them."""
        return {"ROWS": self.rows, "CODES": self.codes, "num_warps": self.warps, "num_stages": self.stages}


ON_CHIP = {2: Tile(128, 128, 64, 8, 3), 4: Tile(64, 64, 32, 4, 2)}
"""Tiles that are multiplied out on chip, by bytes of a number."""
FROM_CHUNK = Tile(16, 256, 0, 8, 2)
"""Tiles that are read from a chunk."""


def triton_runs(device: torch.device) -> bool:
    """Whether the kernels can run: there is Triton, and a CUDA device or Triton's interpreter."""
    runs = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and importlib.util.find_spec("triton") is not None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def uses_triton(kernel: Kernel, device: torch.device) -> bool:
    """Whether the Triton kernels are to do the work: asked for, or left to a device where they run."""
    return kernel == "triton" or (kernel == "auto" and device.type == "cuda" and triton_runs(device))


def check_kernel(kernel: Kernel, device: torch.device) -> None:
    """Refuse a kernel that does not exist or cannot run on ``device``.

    Raises:
        InputError: an unknown name; or triton without the package, or with neither a CUDA device nor Triton's
            interpreter.
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if kernel != "triton" or triton_runs(device):
        return
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            "the kernel 'triton' needs the package triton, which comes with torch for CUDA on Linux: "
            "install it, or take 'torch'"
        )
    raise InputError(f"the kernel 'triton' runs on a CUDA device; given {device}: take 'torch'")


def _tile(logits: list[FactoredLogits], most: dict[int, int], crowded: bool) -> Tile:
    """The tiles of some heads' logits: multiplied out on chip if the channels of all of them are few enough.

    ``crowded``: so much is kept beside a tile that the registers would not hold it at full size.
    """
    size = logits[0].weight.element_size()
    if max(each.rows.shape[1] for each in logits) > most[size]:
        return FROM_CHUNK
    tile = ON_CHIP[size]
    return replace(tile, codes=tile.codes // 2) if crowded else tile


@dataclass(frozen=True)
class _Operands:
    """One head's logits of a group and some rows, as a kernel takes them."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    chunk: Tensor
    coefficients: Tensor
    """Of the evidence, ``[n, D + 1]``; a placeholder where there is none, as for the columns."""
    columns: Tensor
    """``[D + 1, K]``."""

    @classmethod
    def of(cls, logits: FactoredLogits, group: int, rows: slice, chunk: Tensor | None) -> _Operands:
        """Multiply logits out into ``chunk``, if there is one."""
        features, weight, evidence = logits.rows[rows], logits.weight[group], logits.evidence
        if chunk is not None:
            chunk = torch.mm(features, weight.T, out=chunk[: len(features)])
        product = features if chunk is None else chunk
        coefficients = columns = features
        if evidence is not None:
            coefficients, columns = evidence.coefficients[group, rows].float(), evidence.columns.T.float()
        parts = (features, weight, logits.bias[group], product, coefficients, columns)
        return cls(*(part.contiguous() for part in parts))

    def pointers(self) -> list[Tensor]:
        """In the order of a kernel's arguments."""
        return [getattr(self, field.name) for field in fields(self)]


def _terms(logits: FactoredLogits) -> int:
    """Numbers of the evidence for each code: D + 1, or 0 without evidence."""
    return 0 if logits.evidence is None else logits.evidence.columns.shape[1]


def _channels(tile: Tile, width: int) -> int:
    """Channels multiplied at a time; at least 16, a power of two."""
    return min(tile.channels, max(16, _power_of_two(width)))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _chunk_rows(logits: FactoredLogits, copies: int, chunk_bytes: int | None) -> int:
    """Rows to a chunk of which ``copies`` stay within the budget; all of them where nothing is kept."""
    budget = chunk_bytes or chunk_budget(logits.rows.device.type)
    size = max(1, copies) * logits.codes * logits.weight.element_size()
    return min(len(logits.rows), max(1, budget // size)) if copies else len(logits.rows)


def _empty_chunk(logits: FactoredLogits, rows: int) -> Tensor:
    return logits.rows.new_empty(rows, logits.codes, dtype=logits.weight.dtype)


def fits_loss(logits: FactoredLogits, soft: SoftTargets | None) -> bool:
    """Whether the kernel can compute a loss: not in float64, nor with evidence of many dimensions."""
    terms = max(_terms(logits), 0 if soft is None else _terms(soft.logits))
    return working_type(logits.weight).itemsize in ON_CHIP and terms <= MAX_DIMENSIONS + 1


def triton_loss_chunks(logits: FactoredLogits, inputs: LossInputs) -> Iterator[ChunkLoss]:
    """The losses of all logits, chunk by chunk, for :func:`models.chunked_loss.chunked_loss`.

    Features and weights have one precision, and so does the derivative.
    """
    soft = inputs.soft
    heads = [logits] if soft is None else [logits, soft.logits]
    tile = _tile(heads, ON_CHIP_WIDTH, crowded=soft is not None)
    kept = not tile.channels
    count = _chunk_rows(logits, len(heads) if kept else int(inputs.needs_gradient), inputs.chunk_bytes)
    space = _empty_chunk(logits, count) if kept or inputs.needs_gradient else None
    teacher_space = _empty_chunk(logits, count) if kept and soft is not None else None
    for group in range(len(logits.weight)):
        for rows in slices(len(logits.rows), count):
            own = _Operands.of(logits, group, rows, space if kept else None)
            teacher = own if soft is None else _Operands.of(soft.logits, group, rows, teacher_space)
            yield _launch_loss(logits, inputs, tile, group, rows, own, teacher, space)


def _launch_loss(
    logits: FactoredLogits,
    inputs: LossInputs,
    tile: Tile,
    group: int,
    rows: slice,
    own: _Operands,
    teacher: _Operands,
    space: Tensor | None,
) -> ChunkLoss:
    from purrception.models.kernels import loss_kernel

    soft = inputs.soft
    targets = inputs.targets[group, rows].contiguous()
    weights = inputs.weights[group, rows].float().contiguous()
    count, codes = len(targets), logits.codes
    programs = -(-count // tile.rows)
    statistics = weights.new_empty(3, count)
    bias_derivative = weights.new_empty(programs, codes) if inputs.needs_gradient else statistics
    loss_kernel[(programs,)](
        *own.pointers(),
        targets,
        weights,
        *teacher.pointers(),
        statistics,
        own.chunk if space is None else space,
        bias_derivative,
        count,
        codes,
        float(inputs.z_loss),
        0.0 if soft is None else float(soft.share),
        WIDTH=own.features.shape[1],
        TERMS=_terms(logits),
        CHANNELS=_channels(tile, own.features.shape[1]),
        T_WIDTH=teacher.features.shape[1],
        T_TERMS=0 if soft is None else _terms(soft.logits),
        T_CHANNELS=_channels(tile, teacher.features.shape[1]),
        SOFT=soft is not None,
        DERIVATIVE=inputs.needs_gradient,
        PENALTY=inputs.z_loss != 0,
        **tile.options(),
    )
    nll, logsumexp, correct = statistics
    sums = weighted_sums(nll, logsumexp, correct, weights, inputs.z_loss)
    if space is None or not inputs.needs_gradient:
        return ChunkLoss(group, rows, sums, iter(()))
    return ChunkLoss(group, rows, sums, iter([(ALL, space[:count], bias_derivative.sum(0))]))


def fits_posterior(
    logits: FactoredLogits, codebook: Tensor, truncation: Truncation | None, uniforms: Tensor | None, top: int
) -> bool:
    """Whether the kernel can compute a posterior.

    It does not take float64 or codes of many dimensions, does not truncate, draw or name the likeliest codes, and
    cannot be differentiated.
    """
    differentiated = torch.is_grad_enabled() and any(
        part.requires_grad for part in (logits.rows, logits.weight, logits.bias)
    )
    plain = uniforms is None and keeps_all(truncation) and not top and not differentiated
    return plain and working_type(logits.weight).itemsize in ON_CHIP and codebook.shape[1] <= MAX_DIMENSIONS


@torch.compiler.disable  # type: ignore[untyped-decorator]
def triton_posterior(
    logits: FactoredLogits, codebook: Tensor, temperature: float = 1.0, chunk_bytes: int | None = None
) -> Posterior:
    """:func:`models.chunked_posterior.chunked_posterior` by Triton, where :func:`fits_posterior` says so."""
    check_temperature(temperature)
    low = logits.detached(working_type(logits.weight))
    tile = _tile([low], POSTERIOR_ON_CHIP_WIDTH, crowded=codebook.shape[1] > 8)
    kept = not tile.channels
    count = _chunk_rows(low, int(kept), chunk_bytes)
    space = _empty_chunk(low, count) if kept else None
    transposed = codebook.T.float().contiguous()
    parts = []
    for group in range(len(low.weight)):
        for rows in slices(len(low.rows), count):
            own = _Operands.of(low, group, rows, space)
            parts.append(_launch_posterior(own, _terms(low), transposed, temperature, tile))
    return join_posteriors(logits, parts)


def _launch_posterior(own: _Operands, terms: int, codebook: Tensor, temperature: float, tile: Tile) -> Posterior:
    """The posterior of some rows, ``[1, 1, n]``. Where they are few, several programs share the codes."""
    from purrception.models.kernels import posterior_kernel

    (number, width), (dim, codes) = own.features.shape, codebook.shape
    programs = -(-number // tile.rows)
    tiles = -(-codes // tile.codes)
    parts = min(_power_of_two(tiles), _power_of_two(-(-PROGRAMS // programs)))
    sums = codebook.new_empty(parts, 3 + dim, number)
    best = torch.empty(parts, number, dtype=torch.long, device=sums.device)
    posterior_kernel[(programs, parts)](
        *own.pointers(),
        codebook,
        sums,
        best,
        number,
        codes,
        tile.codes * -(-tiles // parts),
        float(temperature),
        WIDTH=width,
        TERMS=terms,
        CHANNELS=_channels(tile, width),
        DIM=dim,
        PADDED=_power_of_two(dim),
        **tile.options(),
    )
    max_logit, total, weighted_log = sums[:, :3].movedim(1, 0)[:, :, None]
    none = sums.new_empty(parts, 1, number, 0)
    weighted_codes = sums[:, None, 3:].movedim(2, 3)
    found = PosteriorSums(
        max_logit, total, weighted_codes, weighted_log, best[:, None], none, none.long(), top_count=0
    )
    while parts > 1:  # neighbours first: of equal logits the first code counts as the largest
        found, parts = _every_other(found, 0) + _every_other(found, 1), parts // 2
    return found.posterior()


def _every_other(sums: PosteriorSums, first: int) -> PosteriorSums:
    parts = {
        field.name: getattr(sums, field.name)[first::2] for field in fields(sums) if field.name != "top_count"
    }
    return replace(sums, **parts)
