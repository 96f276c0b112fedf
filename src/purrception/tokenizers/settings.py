"""The settings of a tokenizer and its training; reading them needs no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_at_least, check_numbers, check_positive

if TYPE_CHECKING:
    from diffusers import VQModel

QUANTISER_KINDS = ("ema", "cosine", "simvq", "fsq")
NORMALISATIONS = ("group", "none")


@dataclass(frozen=True)
class VQConfig:
    """The architecture of a VQ autoencoder (diffusers' ``VQModel``, after LDM and VQGAN)."""

    codebook_size: int = 64
    """K, the number of codes."""
    codebook_dim: int = 4
    """D, the dimension of a code."""
    channels: tuple[int, ...] = (16, 32)
    """The width at each resolution, finest first; n widths scale the image down by 2^(n − 1)."""
    layers: int = 1
    """The number of residual blocks per resolution."""
    attention: bool = False
    """Use self-attention at the coarsest resolution."""
    normalisation: str = "group"
    """The normalisation: group (as LDM), or none, which preserves brightness, contrast and colours of small images
    better."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        bounds = {"codebook_size": 2**24, "codebook_dim": 2**14, "channels": 2**14, "layers": 64}
        check_numbers(self, "tokenizer.model.", **bounds)
        check_at_least(self, "tokenizer.model.", codebook_size=2, codebook_dim=1, layers=1)
        if not 1 <= len(self.channels) <= 16 or any(width < 8 or width % 8 for width in self.channels):
            raise InputError(f"tokenizer channels are 1 to 16 multiples of 8; given {list(self.channels)[:20]}")
        if self.normalisation not in NORMALISATIONS:
            raise unknown_name("normalisation", self.normalisation, NORMALISATIONS)

    @classmethod
    def of(cls, vq: VQModel) -> Self:
        """The architecture of an existing network."""
        from purrception.tokenizers.vq import UnnormalisedVQModel

        config = vq.config
        return cls(
            codebook_size=config.num_vq_embeddings,
            codebook_dim=config.vq_embed_dim or config.latent_channels,
            channels=tuple(config.block_out_channels),
            layers=config.layers_per_block,
            attention=config.mid_block_add_attention,
            normalisation="none" if isinstance(vq, UnnormalisedVQModel) else "group",
        )

    @property
    def downsampling(self) -> int:
        """How many times smaller the grid is than the image, along each side."""
        return int(2 ** (len(self.channels) - 1))

    def build(self, image_channels: int, image_size: int) -> VQModel:
        """An untrained network for images of ``image_channels`` channels and sides of ``image_size`` pixels.

        Raises:
            InputError: the size is not a multiple of the downsampling.
        """
        if image_size % self.downsampling:
            raise InputError(
                f"an image of {image_size} pixels is not a multiple of the tokenizer's downsampling "
                f"{self.downsampling}: change data.image_size or the number of tokenizer channels"
            )
        from purrception.tokenizers.vq import ARCHITECTURES

        return ARCHITECTURES[self.normalisation](
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * len(self.channels),
            up_block_types=("UpDecoderBlock2D",) * len(self.channels),
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            latent_channels=self.channels[-1],
            sample_size=image_size,
            num_vq_embeddings=self.codebook_size,
            norm_num_groups=8,
            vq_embed_dim=self.codebook_dim,
            mid_block_add_attention=self.attention,
        )


@dataclass(frozen=True)
class LossConfig:
    """The losses between images and their reconstructions."""

    l2: float = 1.0
    """The weight of the mean squared error over pixels in [−1, 1]."""
    l1: float = 0.1
    """The weight of the mean absolute error."""
    perceptual: float = 0.0
    """The weight of LPIPS with VGG16, which needs perceptual_weights."""
    perceptual_weights: tuple[str, ...] = ()
    """The files (.safetensors, .pt, .pth or hub:owner/name:file) with VGG16's convolutions and LPIPS's linear
    layers."""

    def __post_init__(self) -> None:
        """Refuse negative weights, and a perceptual loss without its weights or the reverse."""
        check_numbers(self, "loss.")
        check_at_least(self, "loss.", l2=0, l1=0, perceptual=0)
        if not self.l2 and not self.l1 and not self.perceptual:
            raise InputError("loss.l2, loss.l1 and loss.perceptual are not all 0: give one of them a weight")
        if (self.perceptual > 0) != bool(self.perceptual_weights):
            raise InputError(
                "loss.perceptual above 0 and loss.perceptual_weights belong together; given "
                f"{self.perceptual} and {list(self.perceptual_weights)}"
            )


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator of patches and its loss (VQGAN, arXiv 2012.09841)."""

    weight: float = 0.0
    """The weight of the adversarial loss, after it is scaled to the gradient of the reconstruction loss; 0 trains
    no discriminator."""
    start: int = 0
    """The step after which the discriminator begins; by then the autoencoder should reconstruct well."""
    channels: int = 64
    """The width of the discriminator's first layer."""
    layers: int = 3
    """How many layers of the discriminator halve the resolution."""
    learning_rate: float = 1e-4
    """The peak learning rate of the discriminator's AdamW; it decays like the autoencoder's."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained."""
        check_numbers(self, "adversarial.", channels=2**14, layers=16)
        check_positive(self, "adversarial.", "learning_rate")
        check_at_least(self, "adversarial.", weight=0, start=0, channels=8, layers=1)
        if self.channels % 8:
            raise InputError(f"adversarial.channels is a multiple of 8; given {self.channels}")

    def score_size(self, image_size: int) -> int:
        """The side of the map of scores for images of that side in pixels; at least 1 is needed."""
        return int(image_size // 2**self.layers - 2)


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """How to train a tokenizer."""

    steps: int = 600
    """The number of optimiser steps, over which the learning rate decays to zero (cosine)."""
    batch_size: int = 64
    """The number of images per step, over all processes."""
    learning_rate: float = 2e-3
    """The peak learning rate of AdamW."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The losses between images and reconstructions."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """The discriminator, off by default."""
    quantiser: str = "ema"
    """How the codebook is learned: ema (codes follow a moving average), cosine (the same on the unit sphere),
    simvq or fsq."""
    rotation_trick: bool = True
    """Pass gradients through the quantiser by rotation (arXiv 2410.06424) instead of straight through; not for
    fsq."""
    fsq_levels: tuple[int, ...] = ()
    """For fsq, the number of values in each dimension of the codebook, at least 3; their product is K."""
    commitment: float = 0.25
    """The weight of the commitment loss, which keeps the encoder's outputs near their codes."""
    codebook_decay: float = 0.95
    """The decay of the moving average that the codebook follows (ema and cosine)."""
    dead_code_threshold: float = 1.0
    """A code that is chosen fewer times per batch than this, in the moving average, restarts from the batch (ema
    and cosine). The threshold is at most a quarter of an even share, so that codes in use do not restart."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """The precision of the networks: auto is bfloat16 autocast on GPUs and float32 elsewhere. Quantisation is
    always in float32."""
    report_every: int = 100
    """The number of steps between two measurements on held-out images."""
    checkpoint_every: int = 500
    """The number of steps between two checkpoints, from which an interrupted training resumes."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained."""
        what = "tokenizer training: "
        check_numbers(self, what, steps=10**12, batch_size=2**20, fsq_levels=2**16)
        check_positive(self, what, "learning_rate")
        check_at_least(self, what, steps=1, batch_size=1, report_every=1, checkpoint_every=1)
        check_at_least(self, what, commitment=0, dead_code_threshold=0)
        if not 0 <= self.codebook_decay < 1:
            raise InputError(f"codebook_decay lies in [0, 1); given {self.codebook_decay}")
        if self.quantiser not in QUANTISER_KINDS:
            raise unknown_name("quantiser", self.quantiser, QUANTISER_KINDS)
        if (self.quantiser == "fsq") != bool(self.fsq_levels) or any(level < 3 for level in self.fsq_levels):
            raise InputError(
                "quantiser fsq and fsq_levels, such as 4 4 4 4 4, belong together, each level at least 3; given "
                f"{self.quantiser} and {list(self.fsq_levels)}"
            )

    def check(self, model: VQConfig, image_size: int) -> None:
        """Refuse settings that do not fit the architecture or the images, before anything is built.

        Args:
            model: the architecture.
            image_size: the side of the images, in pixels.

        Raises:
            InputError: the levels of fsq do not multiply to K, or the images are too small for a loss.
        """
        levels = self.fsq_levels
        if levels and (len(levels) != model.codebook_dim or math.prod(levels) != model.codebook_size):
            raise InputError(
                f"fsq_levels {list(levels)} make {math.prod(levels)} codes of dimension {len(levels)}; given "
                f"codebook_size {model.codebook_size} and codebook_dim {model.codebook_dim}: make them equal"
            )
        if self.adversarial.weight and self.adversarial.score_size(image_size) < 1:
            raise InputError(
                f"images of {image_size} pixels are too small for adversarial.layers {self.adversarial.layers}: "
                f"it needs {3 * 2**self.adversarial.layers} pixels; lower it, or set adversarial.weight to 0"
            )
        if self.loss.perceptual and image_size < 16:
            raise InputError(f"loss.perceptual needs images of at least 16 pixels; given {image_size}")
