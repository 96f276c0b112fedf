"""The DiT backbone with adaLN-Zero (Peebles & Xie, arXiv 2212.09748): (z_t, t, label) → features."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from purrception.models.layers import (
    SwiGLU,
    TimeEmbedding,
    apply_rotary,
    modulate,
    rotary_cos_sin,
    sinusoidal_positions,
)
from purrception.models.settings import DiTConfig


class Attention(nn.Module):
    """Multi-head self-attention over all patches ``[B, N, C]``."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(config.head_width, eps=1e-6) if config.qk_norm else None for _ in range(2)
        )

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Patches ``[B, N, C]`` → the same shape; ``rotation`` as :func:`apply_rotary` takes it."""
        batch, patches, width = x.shape
        qkv = self.qkv(x).view(batch, patches, 3, self.heads, width // self.heads)
        # Split before they are transposed, so that their gradients are put together in the order of qkv.
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        if self.q_norm is not None and self.k_norm is not None:  # in the precision of their weights
            q, k = (norm(part.to(norm.weight)).to(v) for norm, part in ((self.q_norm, q), (self.k_norm, k)))
        if rotation is not None:
            q, k = apply_rotary(q, rotation), apply_rotary(k, rotation)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(batch, patches, width))


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the condition; identity at initialisation."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.attn = Attention(config)
        self.mlp = _mlp(config)
        self.modulation = nn.Linear(config.width, 6 * config.width)

    def forward(self, x: Tensor, condition: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Patches ``[B, N, C]`` under a condition ``[B, C]`` → the same shape as the patches."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        attended = self.attn(modulate(self.norm1(x), shift1, scale1), rotation)
        x = torch.addcmul(x, gate1[:, None], attended)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.norm2(x), shift2, scale2)))


def _norm(config: DiTConfig) -> nn.Module:
    """Normalisation without a scale and shift of its own, which the condition provides."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.width, elementwise_affine=False, eps=1e-6)


def _mlp(config: DiTConfig) -> nn.Module:
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    if config.mlp == "swiglu":
        return SwiGLU(width, hidden)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


class DiT(nn.Module):
    """(z_t, t, label) → features of each patch, ready for a head.

    Args:
        config: sizes.
        grid: (h, w), sites; any rectangle that the patch divides.
        latent_dim: D, channels of z.
        num_classes: classes without the null class, whose label is ``num_classes``; 0: unconditional.
        stored_positions: whether positions are part of the weights, for a network trained with other ones.

    Raises:
        InputError: the patch does not divide the grid.
    """

    positions: Tensor | None
    rotation: Tensor | None

    def __init__(
        self,
        config: DiTConfig,
        grid: tuple[int, int],
        latent_dim: int,
        num_classes: int,
        stored_positions: bool = False,
    ) -> None:
        super().__init__()
        height, width = config.patches(grid)
        self.patch = nn.Conv2d(latent_dim, config.width, config.patch_size, config.patch_size)
        rotary = config.positions == "rotary"
        added = None if rotary else sinusoidal_positions(height, width, config.width)
        rotation = rotary_cos_sin(height, width, config.head_width) if rotary else None
        self.register_buffer("positions", added, persistent=stored_positions)
        self.register_buffer("rotation", rotation, persistent=False)
        self.time = TimeEmbedding(config.width, config.time_scale)
        self.label = nn.Embedding(num_classes + 1, config.width) if num_classes else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = _norm(config)
        self.final_modulation = nn.Linear(config.width, 2 * config.width)
        # diffusers' names: its enable_gradient_checkpointing sets both
        self.gradient_checkpointing = False
        """Keep only the input of each block for the backward pass, and compute the block again there."""
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for the linear maps, 0.02 for embeddings, zero for every modulation (adaLN-Zero)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch.weight.view(self.patch.out_channels, -1))
        nn.init.zeros_(self.patch.bias)  # type: ignore[arg-type]
        for layer in (self.time.input, self.time.output, self.label):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if "modulation" in name:
                nn.init.zeros_(parameter)

    def compile_blocks(self) -> None:
        """Compile each block in place (torch.compile); they have one shape, so one compilation serves all."""
        for block in self.blocks:
            block.compile()

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Features of every patch.

        Args:
            z: noisy latents ``[B, D, h, w]``.
            t: time ``[B]`` in [0, 1].
            labels: long ``[B]``, 0 to ``num_classes``; ignored by an unconditional network.

        Returns:
            ``[B, h/p, w/p, width]``, normalised and modulated.
        """
        # Made contiguous along the channels of a patch: the convolution leaves them furthest apart in memory, and
        # every later operation would keep that layout.
        x = self.patch(z.to(self.patch.weight.dtype)).permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = x.shape
        if self.positions is not None:
            x = x + self.positions.to(x.dtype)
        x = x.reshape(batch, height * width, channels)
        condition = self.time(t)
        if self.label is not None:
            condition = condition + self.label(labels)
        condition = F.silu(condition)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, condition, self.rotation)
            else:
                x = block(x, condition, self.rotation)
        shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
        return modulate(self.final_norm(x), shift, scale).view(batch, height, width, channels)
