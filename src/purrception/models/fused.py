"""The vocabulary's losses and posterior by Triton kernels: what launches :mod:`models.kernels`, how it adds up.

A training step of XL/2 on 64 images (N = 16384 rows of r = 1152 channels, 4 groups, K = 16384) has 1.07e9 logits:
2.1 GB in 16 bits, 4.3 GB in 32. On an H100, by arithmetic (650 of its 989 TFLOP/s reached by a matrix product, 2.8
of its 3.35 TB/s by memory; measured were 25.0 ms for torch on chunks, compiled, and 18.5 ms for these kernels
through a chunk, see docs/results/performance.md):

- each product of that size, 2 · 1.07e9 · r = 2.5 TFLOP, takes 3.8 ms; a step has three (the logits, and the two
  gradients), 11.4 ms;
- torch on chunks, compiled, moves about 34 GB beside them, 65 GB with evidence, mostly chunks in float32: 12 and
  23 ms;
- multiplied out on chip, twice (for the normalisers, for the slopes), so that only slopes are ever in memory, in
  16 bits: hardly a byte but one more product, 3.8 ms at the least, nearer to 5 as Triton multiplies: 16.5 ms;
- multiplied out once, by cuBLAS, into a chunk in 16 bits that a kernel reads twice and overwrites with its slopes:
  6.4 GB, 2.3 ms: 14 ms.

A product costs 2r/650e12 s a logit and the chunk 6/2.8e12 s, which is equal at r ≈ 700; nearer to 500, as Triton
multiplies. So heads of few channels stay on chip, and wide ones go through a chunk: :data:`ON_CHIP_WIDTH`.
Evidence and soft targets add multiply-adds and exponentials (1.07e9 exponentials: 0.3 ms), no pass over memory,
except for the chunk of a wide teacher. The posterior multiplies out once in either form, and stays on chip at any
width.

The gradients are cuBLAS products of the slopes: an accumulator of a block of rows by r = 1152 in float32, 295 KB
for 64 rows, fits no processor's registers. No atomics: sums over rows and over parts of the codes are stored apart
and added up in order, so equal inputs give equal bits.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from purrception.flow import Posterior, PosteriorSums
from purrception.models.chunked_loss import KERNELS, Kernel, LossProblem, Piece, figures_of
from purrception.models.chunked_posterior import Reading
from purrception.models.factored_logits import EVERY, FactoredLogits, GroupedEvidence, chunk_budget, slices
from purrception.utils.errors import InputError, unknown_name

ON_CHIP_WIDTH = {2: 512, 4: 0}
"""Most channels, by bytes of a number, at which the loss multiplies logits out twice rather than keep a chunk."""
POSTERIOR_ON_CHIP_WIDTH = {2: 1 << 20, 4: 0}
"""Likewise for the posterior. In float32 cuBLAS is faster by more than a chunk costs."""
MOST_DIMENSIONS = 32
"""Of a code, up to which a kernel takes evidence and means; its loop over them is written out."""
PROGRAMS = 512
"""Wanted of a posterior: about four for each of a large GPU's processors."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of a tile and what computes it."""

    rows: int
    codes: int
    channels: int
    """Multiplied at a time; 0: logits are read from a chunk."""
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """As Triton takes them."""
        return {"ROWS": self.rows, "CODES": self.codes, "num_warps": self.warps, "num_stages": self.stages}


MULTIPLYING = {2: Blocks(128, 128, 64, 8, 3), 4: Blocks(64, 64, 32, 4, 2)}
"""By bytes of a number."""
READING = Blocks(16, 256, 0, 8, 2)


def triton_runs(device: torch.device) -> bool:
    """Whether the kernels can run: there is Triton, and a CUDA device or Triton's interpreter."""
    runs = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and importlib.util.find_spec("triton") is not None


def chosen(kernel: Kernel, device: torch.device) -> bool:
    """Whether these kernels are to do the work: asked for, or best where they run."""
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


def _blocks(logits: list[FactoredLogits], most: dict[int, int], crowded: bool) -> Blocks:
    """The tiles of some heads' logits: multiplied out on chip if all of them are to be.

    ``crowded``: with so much beside a tile that the registers would not hold it at full size.
    """
    size = logits[0].weight.element_size()
    if max(each.rows.shape[1] for each in logits) > most[size]:
        return READING
    blocks = MULTIPLYING[size]
    return replace(blocks, codes=blocks.codes // 2) if crowded else blocks


@dataclass(frozen=True)
class _Operands:
    """One head's logits of a group and some rows, as a kernel takes them."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    chunk: Tensor
    coefficients: Tensor
    """Of evidence, ``[n, D + 1]``; anything where there is none, as for the columns."""
    columns: Tensor
    """``[D + 1, K]``."""

    @classmethod
    def of(
        cls,
        logits: FactoredLogits,
        evidence: GroupedEvidence | None,
        group: int,
        rows: slice,
        chunk: Tensor | None,
    ) -> _Operands:
        """Multiply logits out into ``chunk``, if there is one."""
        features, weight = logits.rows[rows], logits.weight[group]
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


def _terms(evidence: GroupedEvidence | None) -> int:
    return 0 if evidence is None else evidence.columns.shape[1]


def _channels(blocks: Blocks, width: int) -> int:
    """Channels multiplied at a time; at least 16, a power of two."""
    return min(blocks.channels, max(16, _power_of_two(width)))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _chunk_rows(logits: FactoredLogits, copies: int, chunk_bytes: int | None) -> int:
    """Rows to a chunk of which ``copies`` stay within the budget; all of them where nothing is kept."""
    budget = chunk_bytes or chunk_budget(logits.rows.device.type)
    size = max(1, copies) * logits.codes * logits.weight.element_size()
    return min(len(logits.rows), max(1, budget // size)) if copies else len(logits.rows)


def _room(logits: FactoredLogits, rows: int) -> Tensor:
    return logits.rows.new_empty(rows, logits.codes, dtype=logits.weight.dtype)


def loss_fits(logits: FactoredLogits, problem: LossProblem) -> bool:
    """Whether the kernel takes a loss: not in float64, nor with evidence of many dimensions."""
    taught = None if problem.soft is None else problem.soft.evidence
    terms = max(_terms(problem.evidence), _terms(taught))
    return logits.weight.element_size() in MULTIPLYING and terms <= MOST_DIMENSIONS + 1


def loss_pieces(logits: FactoredLogits, problem: LossProblem) -> Iterator[Piece]:
    """Figures and slopes of all logits, chunk by chunk; see :func:`models.vocabulary.total_loss`.

    Features and weights are of one precision, and the slopes have it too.
    """
    soft = problem.soft
    heads = [logits] if soft is None else [logits, soft.logits]
    blocks = _blocks(heads, ON_CHIP_WIDTH, crowded=soft is not None)
    kept = not blocks.channels
    slope_too = problem.needs_gradient
    count = _chunk_rows(logits, len(heads) if kept else int(slope_too), problem.chunk_bytes)
    room = _room(logits, count) if kept or slope_too else None
    taught_room = _room(logits, count) if kept and soft is not None else None
    for group in range(len(logits.weight)):
        for rows in slices(len(logits.rows), count):
            own = _Operands.of(logits, problem.evidence, group, rows, room if kept else None)
            taught = own if soft is None else _Operands.of(soft.logits, soft.evidence, group, rows, taught_room)
            yield group, rows, *_launch_loss(logits, problem, blocks, group, rows, own, taught, room)


def _launch_loss(
    logits: FactoredLogits,
    problem: LossProblem,
    blocks: Blocks,
    group: int,
    rows: slice,
    own: _Operands,
    taught: _Operands,
    room: Tensor | None,
) -> tuple[Tensor, Any]:
    """(figures, slopes) of a chunk, as in :data:`models.vocabulary.Piece`."""
    from purrception.models.kernels import loss_kernel

    soft, evidence = problem.soft, problem.evidence
    targets = problem.targets[group, rows].contiguous()
    weights = problem.weights[group, rows].float().contiguous()
    count, codes = len(targets), logits.codes
    programs = -(-count // blocks.rows)
    figures = weights.new_empty(3, count)
    bias_slopes = weights.new_empty(programs, codes) if problem.needs_gradient else figures
    loss_kernel[(programs,)](
        *own.pointers(),
        targets,
        weights,
        *taught.pointers(),
        figures,
        own.chunk if room is None else room,
        bias_slopes,
        count,
        codes,
        float(problem.z_loss),
        0.0 if soft is None else float(soft.share),
        WIDTH=own.features.shape[1],
        TERMS=_terms(evidence),
        CHANNELS=_channels(blocks, own.features.shape[1]),
        T_WIDTH=taught.features.shape[1],
        T_TERMS=0 if soft is None else _terms(soft.evidence),
        T_CHANNELS=_channels(blocks, taught.features.shape[1]),
        SOFT=soft is not None,
        SLOPES=problem.needs_gradient,
        PENALTY=problem.z_loss != 0,
        **blocks.options(),
    )
    nll, drift, correct = figures
    part = figures_of(nll, drift, correct, weights, problem.z_loss)
    if room is None or not problem.needs_gradient:
        return part, iter(())
    return part, iter([(EVERY, room[:count], bias_slopes.sum(0))])


def posterior_fits(logits: FactoredLogits, reading: Reading) -> bool:
    """Whether the kernel takes a posterior: not in float64, nor of codes of many dimensions."""
    return logits.weight.element_size() in MULTIPLYING and reading.codebook.shape[1] <= MOST_DIMENSIONS


def posterior_parts(
    logits: FactoredLogits, evidence: GroupedEvidence | None, reading: Reading, chunk_bytes: int | None
) -> Iterator[Posterior]:
    """The posterior of all sites, ``[1, 1, n]`` at a time; see :func:`models.reading.chunked_posterior`."""
    blocks = _blocks([logits], POSTERIOR_ON_CHIP_WIDTH, crowded=reading.codebook.shape[1] > 8)
    kept = not blocks.channels
    count = _chunk_rows(logits, int(kept), chunk_bytes)
    room = _room(logits, count) if kept else None
    codebook = reading.codebook.T.float().contiguous()
    for group in range(len(logits.weight)):
        for rows in slices(len(logits.rows), count):
            own = _Operands.of(logits, evidence, group, rows, room)
            yield _launch_posterior(own, _terms(evidence), codebook, reading.temperature, blocks)


def _launch_posterior(
    own: _Operands, terms: int, codebook: Tensor, temperature: float, blocks: Blocks
) -> Posterior:
    """The posterior of some rows. Where they are few, several programs share the codes."""
    from purrception.models.kernels import posterior_kernel

    (number, width), (dim, codes) = own.features.shape, codebook.shape
    programs = -(-number // blocks.rows)
    tiles = -(-codes // blocks.codes)
    parts = min(_power_of_two(tiles), _power_of_two(-(-PROGRAMS // programs)))
    sums = codebook.new_empty(parts, 3 + dim, number)
    likeliest = torch.empty(parts, number, dtype=torch.long, device=sums.device)
    posterior_kernel[(programs, parts)](
        *own.pointers(),
        codebook,
        sums,
        likeliest,
        number,
        codes,
        blocks.codes * -(-tiles // parts),
        float(temperature),
        WIDTH=width,
        TERMS=terms,
        CHANNELS=_channels(blocks, width),
        DIM=dim,
        PADDED=_power_of_two(dim),
        **blocks.options(),
    )
    height, total, surprise = sums[:, :3].movedim(1, 0)[:, :, None]
    none = sums.new_empty(parts, 1, number, 0)
    weighted = sums[:, None, 3:].movedim(2, 3)
    found = PosteriorSums(height, total, weighted, surprise, likeliest[:, None], none, none.long(), wanted=0)
    while parts > 1:  # neighbours first: of equal logits the first code counts as the largest
        found, parts = _every_other(found, 0) + _every_other(found, 1), parts // 2
    return found.posterior()


def _every_other(sums: PosteriorSums, first: int) -> PosteriorSums:
    parts = {field.name: getattr(sums, field.name)[first::2] for field in fields(sums) if field.name != "wanted"}
    return replace(sums, **parts)
