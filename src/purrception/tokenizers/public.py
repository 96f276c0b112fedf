"""The public VQ tokenizers: their sizes, and their names for the tensors of a diffusers ``VQModel``.

Names and sizes are those of the public repositories: CompVis/latent-diffusion (LDM, arXiv 2112.10752, whose
autoencoder is taming-transformers') and FoundationVision/LlamaGen (arXiv 2406.06525). Both are the same network
under other names: residual blocks, attention at the coarsest resolution, a convolution between resolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import VQModel
from torch import Tensor

from purrception.storage.foreign_weights import account_for

Family = Literal["taming", "llamagen"]

# Both families' names for the parts of a block, by diffusers' name.
_PARTS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
_BLOCKS: dict[Family, dict[str, str]] = {
    "taming": {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.attentions.0": "mid.attn_1",
        "mid_block.resnets.1": "mid.block_2",
        "down_blocks": "down",
        "up_blocks": "up",
        "resnets": "block",
        "attentions": "attn",
    },
    "llamagen": {
        "mid_block.resnets.0": "mid.0",
        "mid_block.attentions.0": "mid.1",
        "mid_block.resnets.1": "mid.2",
        "down_blocks": "conv_blocks",
        "up_blocks": "conv_blocks",
        "resnets": "res",
        "attentions": "attn",
    },
}
_BOOKKEEPING: dict[Family, re.Pattern[str]] = {
    # LPIPS and the discriminator; Lightning's moving average, which LDM's own inference does not use
    "taming": re.compile(r"loss\.|model_ema\."),
    "llamagen": re.compile(r"quantize\.codebook_used$"),  # which codes the last batches hit
}


@dataclass(frozen=True)
class PublicTokenizer:
    """The architecture of a public tokenizer."""

    family: Family
    codebook_size: int
    """K, the number of codes."""
    codebook_dim: int
    """D, the dimension of a code."""
    latent_channels: int
    """Channels between the encoder and the projection to D."""
    multipliers: tuple[int, ...]
    """The width at each resolution, finest first, in multiples of ``base``."""
    attention: bool
    """Whether there is self-attention at the coarsest resolution, besides that in the middle block."""
    base: int = 128
    """The base width."""

    @property
    def normalised(self) -> bool:
        """Whether codes and latents are normalised to unit length before they are compared or decoded."""
        return self.family == "llamagen"

    def build(self) -> VQModel:
        """The untrained network; on the meta device it takes no memory."""
        coarser = len(self.multipliers) - 1
        last = "Attn" if self.attention else ""
        return VQModel(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * coarser + (f"{last}DownEncoderBlock2D",),
            up_block_types=(f"{last}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * coarser,
            block_out_channels=tuple(self.base * multiplier for multiplier in self.multipliers),
            layers_per_block=2,
            latent_channels=self.latent_channels,
            sample_size=256,
            num_vq_embeddings=self.codebook_size,
            norm_num_groups=32,
            vq_embed_dim=self.codebook_dim,
        )

    def names(self, targets: Iterable[str]) -> dict[str, str]:
        """The public name of each tensor of the ``VQModel``, by diffusers' name."""
        return {target: self._name(target) for target in targets}

    def account(self, tensors: dict[str, Tensor]) -> tuple[str, tuple[str, ...]]:
        """How the tensors of a file compare with those of this tokenizer; see :func:`account_for`."""
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in self.build().state_dict().items()}
        known = _BOOKKEEPING[self.family]
        return account_for(tensors, self.names(shapes), shapes, lambda name: bool(known.match(name)))

    def _name(self, target: str) -> str:
        name = target
        for ours, theirs in (_BLOCKS[self.family] | _PARTS).items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        if self.family == "taming":  # numbers the decoder's resolutions from the finest
            coarsest = len(self.multipliers) - 1
            name = re.sub(r"\.up\.(\d+)\.", lambda found: f".up.{coarsest - int(found[1])}.", name)
        return name


PUBLIC_TOKENIZERS = {
    "vq-f4": PublicTokenizer("taming", 8192, 3, 3, (1, 2, 4), attention=False),
    "vq-f8": PublicTokenizer("taming", 16384, 4, 4, (1, 2, 2, 4), attention=True),
    "vq-f8-n256": PublicTokenizer("taming", 256, 4, 4, (1, 2, 2, 4), attention=True),
    "vq-f16": PublicTokenizer("taming", 16384, 8, 8, (1, 1, 2, 2, 4), attention=True),
    "vqgan-imagenet-f16-1024": PublicTokenizer("taming", 1024, 256, 256, (1, 1, 2, 2, 4), attention=True),
    "vqgan-imagenet-f16-16384": PublicTokenizer("taming", 16384, 256, 256, (1, 1, 2, 2, 4), attention=True),
    "vq-ds8-c2i": PublicTokenizer("llamagen", 16384, 8, 256, (1, 2, 2, 4), attention=True),
    "vq-ds16-c2i": PublicTokenizer("llamagen", 16384, 8, 256, (1, 1, 2, 2, 4), attention=True),
    "vq-ds16-t2i": PublicTokenizer("llamagen", 16384, 8, 256, (1, 1, 2, 2, 4), attention=True),
}
