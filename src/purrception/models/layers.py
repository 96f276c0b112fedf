"""Layers of the backbone: embeddings of time and position, adaptive modulation, SwiGLU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of ``t`` ``[B]`` at geometric frequencies, float32 ``[B, dim]``; dim is even."""
    half = dim // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(max_period) / half)
    )
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sinusoidal_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed 2-D position embeddings, float32 ``[height, width, dim]``: half the channels for each axis."""
    rows = sinusoidal_embedding(torch.arange(height), dim // 2)
    columns = sinusoidal_embedding(torch.arange(width), dim // 2)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x ``[B, N, C]`` scaled by 1 + ``scale`` and shifted by ``shift``, both ``[B, C]``."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class TimeEmbedding(nn.Module):
    """t ``[B]`` in [0, 1] → ``[B, width]`` through a sinusoidal embedding and an MLP."""

    frequencies = 256

    def __init__(self, width: int, time_scale: float) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.input = nn.Linear(self.frequencies, width)
        self.output = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Time ``[B]`` → condition ``[B, width]``; the angles are float32."""
        embedding = sinusoidal_embedding(t.float() * self.time_scale, self.frequencies)
        return self.output(F.silu(self.input(embedding.to(self.input.weight.dtype))))


class SwiGLU(nn.Module):
    """silu(g) · u of two linear maps, and back (arXiv 2002.05202).

    Args:
        width: channels of a patch.
        hidden: hidden width of a plain MLP; two thirds of it, rounded up to a multiple of 8, cost the same.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-2 * hidden // 3 // 8) * 8
        self.input = nn.Linear(width, 2 * hidden)
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Patches ``[B, N, C]`` → the same shape."""
        gate, up = self.input(x).chunk(2, dim=-1)
        return self.output(F.silu(gate) * up)


def rotary_cos_sin(height: int, width: int, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of the angles by which rotary positions rotate pairs of a head's channels.

    The angles of the first half of the pairs grow with the row, those of the second half with the column, each at
    geometric frequencies (RoPE, arXiv 2104.09864, once for each axis); ``channels`` is a multiple of 4.

    Returns:
        float32 ``[2, height · width, channels / 2]``.
    """
    count = channels // 4
    frequencies = max_period ** (-torch.arange(count, dtype=torch.float32) / count)
    rows = torch.arange(height)[:, None, None] * frequencies.expand(height, width, count)
    columns = torch.arange(width)[None, :, None] * frequencies.expand(height, width, count)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()])


def apply_rotary(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of the channels of ``x`` ``[…, N, d]``.

    A product of two rotated vectors depends only on the difference of their angles.

    Args:
        x: queries or keys.
        rotation: cosines and sines from :func:`rotary_cos_sin`, ``[2, N, d/2]``.
    """
    cos, sin = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
