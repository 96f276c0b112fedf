"""Parts of a block that came after DiT; the presets use none of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """silu(g) · u of two linear maps, and back (arXiv 2002.05202).

    Args:
        width: channels of a token.
        hidden: width that a plain MLP would have; a third less, rounded up to 8, costs the same.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-2 * hidden // 3 // 8) * 8
        self.input = nn.Linear(width, 2 * hidden)
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` → the same shape."""
        gate, up = self.input(x).chunk(2, dim=-1)
        return self.output(F.silu(gate) * up)


def rotary_turns(height: int, width: int, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of the angles by which pairs of a head's channels turn.

    The first half of the pairs goes with the row, the second with the column, each at geometric frequencies
    (arXiv 2104.09864, once for each axis); ``channels`` is a multiple of 4.

    Returns:
        float32 ``[2, height · width, channels / 2]``.
    """
    count = channels // 4
    frequencies = max_period ** (-torch.arange(count, dtype=torch.float32) / count)
    rows = torch.arange(height)[:, None, None] * frequencies.expand(height, width, count)
    columns = torch.arange(width)[None, :, None] * frequencies.expand(height, width, count)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn channel i of ``x`` ``[…, N, d]`` with channel i + d/2.

    A product of two turned vectors depends on the difference of their angles alone.

    Args:
        x: queries or keys.
        rotation: of :func:`rotary_turns`, ``[2, N, d/2]``.
    """
    cos, sin = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
