"""The loops over the codes as Triton kernels; :mod:`models.fused` launches them.

A program owns a block of rows and goes through the codes tile by tile. What is computed from a tile (exponentials,
sums, a derivative) stays in registers. A tile's logits are either multiplied out here, or read from a chunk into
which a matrix product has written them; see :data:`models.fused.ON_CHIP_WIDTH`.

Names with ``T_`` and ``t_`` belong to a teacher's logits; see :class:`models.chunked_loss.SoftTargets`.
"""
# Compile-time constants are written in capitals, and a kernel takes pointers: no dataclass could group them.
# ruff: noqa: N803

from __future__ import annotations

import os

import triton
import triton.language as tl

OUTSIDE = tl.constexpr(-1e30)
"""Logit of a code that does not exist: its weight is 0, and 0 times it is no NaN, as 0 times −∞ would be."""

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Triton's interpreter multiplies the bits of bfloat16 as if they were integers; there they are widened first."""


@triton.jit
def _own(features, weight, bias, chunk, row, code, rows, codes, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """The network's own logits of a tile, float32; CHANNELS at a time, or from ``chunk`` where that is 0."""
    near = tl.minimum(code, codes - 1)  # an address that exists
    if CHANNELS > 0:
        channel = tl.arange(0, CHANNELS)
        left = features + tl.minimum(row, rows - 1)[:, None] * WIDTH + channel[None, :]
        right = weight + near[None, :].to(tl.int64) * WIDTH + channel[:, None]
        tile = tl.zeros([row.shape[0], code.shape[0]], tl.float32)
        for start in range(0, WIDTH, CHANNELS):
            if WIDTH % CHANNELS == 0:
                x, w = tl.load(left + start), tl.load(right + start)
            else:
                x = tl.load(left + start, mask=(channel < WIDTH - start)[None, :], other=0.0)
                w = tl.load(right + start, mask=(channel < WIDTH - start)[:, None], other=0.0)
            if INTERPRETED:
                x, w = x.to(tl.float32), w.to(tl.float32)
            tile = tl.dot(x, w, tile, input_precision="ieee")
    else:
        there = (row < rows)[:, None] & (code < codes)[None, :]
        tile = tl.load(chunk + row[:, None] * codes + code[None, :], mask=there, other=0.0).to(tl.float32)
    return tile + tl.load(bias + near).to(tl.float32)[None, :]


@triton.jit
def _with_evidence(tile, coefficients, columns, row, code, rows, codes, TERMS: tl.constexpr):
    """Add coefficients [rows, TERMS] times columns [TERMS, codes], as multiply-adds in full float32.

    The terms are few: a matrix product would pad them to 16 and move the tile through shared memory.
    """
    near_row, near_code = tl.minimum(row, rows - 1), tl.minimum(code, codes - 1)
    for term in tl.static_range(TERMS):
        coefficient = tl.load(coefficients + near_row * TERMS + term)
        tile += coefficient[:, None] * tl.load(columns + term * codes + near_code)[None, :]
    return tile


@triton.jit
def _existing(tile, code, codes):
    return tl.where((code < codes)[None, :], tile, OUTSIDE)


@triton.jit
def _online_logsumexp(max_logit, total, tile, peak):
    """Running (largest logit, Σ exp(logit − that)) of each row after another tile, whose largest is ``peak``."""
    top = tl.maximum(max_logit, peak)
    return top, total * tl.exp(max_logit - top) + tl.sum(tl.exp(tile - top[:, None]), axis=1)


@triton.jit
def loss_kernel(
    features,
    weight,
    bias,
    chunk,
    coefficients,
    columns,
    targets,
    weights,
    t_features,
    t_weight,
    t_bias,
    t_chunk,
    t_coefficients,
    t_columns,
    statistics,
    derivative,
    bias_derivative,
    rows,
    codes,
    z_loss,
    share,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    CHANNELS: tl.constexpr,
    T_WIDTH: tl.constexpr,
    T_TERMS: tl.constexpr,
    T_CHANNELS: tl.constexpr,
    SOFT: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    PENALTY: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
):
    """Statistics (−Σ y ln q, ℓ, [argmax q = c]) ``[3, rows]`` and derivative of a block of rows.

    ``derivative`` ``[rows, codes]`` may be ``chunk`` itself: a program reads a tile before it writes it, and no
    other program reads it. ``bias_derivative`` ``[programs, codes]`` is the sum over the block. With PENALTY, λ_z
    is not 0.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    target = tl.load(targets + row, mask=there, other=-1)
    nothing = tl.zeros([row.shape[0]], tl.float32)
    top, own_top, t_top = nothing + OUTSIDE, nothing + OUTSIDE, nothing + OUTSIDE
    total, own_total, t_total, at_target, expected = nothing, nothing, nothing, nothing, nothing
    best = tl.zeros([row.shape[0]], tl.int32)
    for start in range(0, codes, CODES):
        code = start + tl.arange(0, CODES)
        sums = _own(features, weight, bias, chunk, row, code, rows, codes, WIDTH, CHANNELS)
        sums = _existing(sums, code, codes)
        if TERMS > 0:
            own_top, own_total = _online_logsumexp(own_top, own_total, sums, tl.max(sums, axis=1))
            sums = _with_evidence(sums, coefficients, columns, row, code, rows, codes, TERMS)
            sums = _existing(sums, code, codes)
        at_target += tl.sum(tl.where(code[None, :] == target[:, None], sums, 0.0), axis=1)
        peak, place = tl.max(sums, axis=1, return_indices=True)
        best = tl.where(peak > top, start + place, best)
        top, total = _online_logsumexp(top, total, sums, peak)
        if SOFT:
            teacher = _own(t_features, t_weight, t_bias, t_chunk, row, code, rows, codes, T_WIDTH, T_CHANNELS)
            teacher = _with_evidence(teacher, t_coefficients, t_columns, row, code, rows, codes, T_TERMS)
            teacher = _existing(teacher, code, codes)
            new_top = tl.maximum(t_top, tl.max(teacher, axis=1))
            powers, fall = tl.exp(teacher - new_top[:, None]), tl.exp(t_top - new_top)
            expected = fall * expected + tl.sum(powers * sums, axis=1)
            t_total, t_top = fall * t_total + tl.sum(powers, axis=1), new_top
    normaliser = top + tl.log(total)
    logsumexp = normaliser
    if TERMS > 0:
        logsumexp = own_top + tl.log(own_total)
    t_normaliser = normaliser
    if SOFT:
        at_target += share * (expected / t_total - at_target)
        t_normaliser = t_top + tl.log(t_total)
    tl.store(statistics + row, normaliser - at_target, mask=there)
    tl.store(statistics + rows + row, logsumexp, mask=there)
    tl.store(statistics + 2 * rows + row, (best == target).to(tl.float32), mask=there)
    if DERIVATIVE:
        w = tl.load(weights + row, mask=there, other=0.0)  # 0 where there is no row, and so its gradient
        by_own, by_target = 2 * z_loss * logsumexp * w, w
        if SOFT:
            by_target = w * (1 - share)
        for start in range(0, codes, CODES):
            code = start + tl.arange(0, CODES)
            tile = _own(features, weight, bias, chunk, row, code, rows, codes, WIDTH, CHANNELS)
            tile = _existing(tile, code, codes)
            if TERMS > 0:
                sums = _with_evidence(tile, coefficients, columns, row, code, rows, codes, TERMS)
                gradient = tl.exp(sums - normaliser[:, None]) * w[:, None]
                if PENALTY:
                    gradient += tl.exp(tile - logsumexp[:, None]) * by_own[:, None]
            else:
                gradient = tl.exp(tile - logsumexp[:, None]) * (w + by_own)[:, None]
            gradient -= tl.where(code[None, :] == target[:, None], by_target[:, None], 0.0)
            if SOFT:
                teacher = _own(t_features, t_weight, t_bias, t_chunk, row, code, rows, codes, T_WIDTH, T_CHANNELS)
                teacher = _with_evidence(teacher, t_coefficients, t_columns, row, code, rows, codes, T_TERMS)
                gradient -= tl.exp(teacher - t_normaliser[:, None]) * (w * share)[:, None]
            inside = there[:, None] & (code < codes)[None, :]
            tl.store(
                derivative + row[:, None] * codes + code[None, :], gradient.to(derivative.dtype.element_ty), inside
            )
            place = tl.program_id(0).to(tl.int64) * codes + code
            tl.store(bias_derivative + place, tl.sum(gradient, axis=0), mask=code < codes)


@triton.jit
def posterior_kernel(
    features,
    weight,
    bias,
    chunk,
    coefficients,
    columns,
    codebook,
    sums,
    best_codes,
    rows,
    codes,
    part,
    temperature,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
):
    """The sums of :class:`flow.PosteriorSums` over a part of the codes, for a block of rows.

    ``sums`` ``[parts, 3 + DIM, rows]``: max_logit, total, weighted_log, weighted_codes; ``best_codes``
    ``[parts, rows]``.
    ``codebook`` is ``[DIM, codes]``, and PADDED the power of two from DIM on.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * part
    max_logit = tl.zeros([ROWS], tl.float32) + OUTSIDE
    total, weighted_log = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    best = tl.zeros([ROWS], tl.int32)
    axis = tl.arange(0, PADDED)
    weighted = tl.zeros([ROWS, PADDED], tl.float32)
    for start in range(first, tl.minimum(first + part, codes), CODES):
        code = start + tl.arange(0, CODES)
        tile = _own(features, weight, bias, chunk, row, code, rows, codes, WIDTH, CHANNELS)
        tile = _with_evidence(tile, coefficients, columns, row, code, rows, codes, TERMS) / temperature
        tile = _existing(tile, code, codes)
        peak, place = tl.max(tile, axis=1, return_indices=True)
        best = tl.where(peak > max_logit, start + place, best)
        top = tl.maximum(max_logit, peak)
        fall = max_logit - top
        factor = tl.exp(fall)
        shifted = tile - top[:, None]
        powers = tl.exp(shifted)
        weighted_log = factor * (weighted_log + fall * total) + tl.sum(powers * shifted, axis=1)
        total = factor * total + tl.sum(powers, axis=1)
        weighted *= factor[:, None]
        near = tl.minimum(code, codes - 1)
        for d in tl.static_range(DIM):
            along = tl.sum(powers * tl.load(codebook + d * codes + near)[None, :], axis=1)
            weighted += tl.where(axis[None, :] == d, along[:, None], 0.0)
        max_logit = top
    there, part_of = row < rows, tl.program_id(1).to(tl.int64)
    out = sums + part_of * (3 + DIM) * rows + row
    tl.store(out, max_logit, mask=there)
    tl.store(out + rows, total, mask=there)
    tl.store(out + 2 * rows, weighted_log, mask=there)
    places = out[:, None] + (3 + axis)[None, :] * rows
    tl.store(places, weighted, mask=there[:, None] & (axis < DIM)[None, :])
    tl.store(best_codes + part_of * rows + row, best.to(tl.int64), mask=there)
