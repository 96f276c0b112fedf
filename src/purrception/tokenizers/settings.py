"""How a tokenizer is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from purrception.tokenizers.vq import VQConfig
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import LARGEST_LEARNING_RATE, check_numbers

QUANTISER_KINDS = ("ema", "cosine", "simvq", "fsq")


@dataclass(frozen=True)
class LossConfig:
    """What a reconstruction is compared by."""

    l2: float = 1.0
    """Weight of the mean squared error over pixels in [−1, 1]."""
    l1: float = 0.1
    """Weight of the mean absolute error."""
    perceptual: float = 0.0
    """Weight of LPIPS over VGG16; needs perceptual_weights."""
    perceptual_weights: tuple[str, ...] = ()
    """Files (.safetensors, .pt, .pth) with VGG16's convolutions and LPIPS's linear layers, or
    hub:owner/name:file."""

    def __post_init__(self) -> None:
        """Refuse negative weights, and a perceptual loss that is half asked for."""
        check_numbers(self, "loss.")
        weights = (self.l2, self.l1, self.perceptual)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise InputError(
                f"loss.l2, loss.l1 and loss.perceptual are at least 0 and not all 0; given {list(weights)}"
            )
        if (self.perceptual > 0) != bool(self.perceptual_weights):
            raise InputError(
                "loss.perceptual above 0 and loss.perceptual_weights belong together; given "
                f"{self.perceptual} and {list(self.perceptual_weights)}"
            )


@dataclass(frozen=True)
class AdversarialConfig:
    """A discriminator of patches (VQGAN, arXiv 2012.09841)."""

    weight: float = 0.0
    """Of the adversarial loss, after it has been scaled to the reconstruction's gradient; 0: no discriminator."""
    start: int = 0
    """Step after which it begins; the autoencoder should rebuild well before."""
    channels: int = 64
    """Width of its first layer."""
    layers: int = 3
    """Layers that halve the resolution."""
    learning_rate: float = 1e-4
    """Peak learning rate of its AdamW; falls as the autoencoder's does."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        check_numbers(self, "adversarial.", channels=2**14, layers=16)
        if not 0 <= self.weight < math.inf or self.start < 0 or self.channels < 8 or self.channels % 8:
            raise InputError(
                "adversarial.weight and start are at least 0, channels a multiple of 8; given "
                f"{self.weight}, {self.start} and {self.channels}"
            )
        if self.layers < 1 or not 0 < self.learning_rate <= LARGEST_LEARNING_RATE:
            raise InputError(
                f"adversarial.layers is at least 1 and learning_rate positive, at most {LARGEST_LEARNING_RATE:g}; "
                f"given {self.layers} and {self.learning_rate}"
            )

    def score_size(self, image_size: int) -> int:
        """Side of the map of scores for an image of that side, pixels; below 1 there is none."""
        return int(image_size // 2**self.layers - 2)


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """How a tokenizer is trained."""

    steps: int = 600
    """Optimiser steps; the learning rate falls to zero over them (cosine)."""
    batch_size: int = 64
    """Images per step, over all processes."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Between images and reconstructions."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """Discriminator, off by default."""
    quantiser: str = "ema"
    """ema (codes follow a moving average), cosine (the same on the unit sphere), simvq or fsq."""
    rotation_trick: bool = True
    """Gradient through the quantiser by rotation (arXiv 2410.06424) instead of straight through; not for fsq."""
    fsq_levels: tuple[int, ...] = ()
    """For fsq: values per dimension, each at least 3; one per codebook dimension, their product is K."""
    commitment: float = 0.25
    """Weight of the commitment loss, which keeps encoder outputs near their codes."""
    codebook_decay: float = 0.95
    """Decay of the moving average that the codebook follows (ema and cosine)."""
    dead_code_threshold: float = 1.0
    """A code that stands for fewer sites per batch than this (moving average) restarts from the batch (ema and
    cosine); at most a quarter of an even share, sites / codebook_size / 4, counts, or living codes
    would restart."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto is bfloat16 autocast on GPUs and float32 elsewhere. Quantisation is always float32."""
    report_every: int = 100
    """Steps between two measurements on held-out images."""
    checkpoint_every: int = 500
    """Steps between two checkpoints, which a killed training goes on from."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        check_numbers(self, "tokenizer training: ", steps=10**12, batch_size=2**20, fsq_levels=2**16)
        for name in ("steps", "batch_size", "report_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(
                    "tokenizer training needs steps, batch_size, report_every and checkpoint_every of at least "
                    f"1; given {name} {getattr(self, name)}"
                )
        rate = 0 < self.learning_rate <= LARGEST_LEARNING_RATE
        if not rate or not 0 <= self.codebook_decay < 1 or not self.commitment >= 0:
            raise InputError(
                f"learning_rate is positive and at most {LARGEST_LEARNING_RATE:g}, codebook_decay lies in [0, 1) "
                "and commitment is at least 0; given "
                f"{self.learning_rate}, {self.codebook_decay} and {self.commitment}"
            )
        if not self.dead_code_threshold >= 0:
            raise InputError(f"dead_code_threshold is at least 0 (never); given {self.dead_code_threshold}")
        if self.quantiser not in QUANTISER_KINDS:
            raise unknown_name("quantiser", self.quantiser, QUANTISER_KINDS)
        if (self.quantiser == "fsq") != bool(self.fsq_levels) or any(level < 3 for level in self.fsq_levels):
            raise InputError(
                "quantiser fsq and fsq_levels, such as 4 4 4 4 4, belong together, each level at least 3; given "
                f"{self.quantiser} and {list(self.fsq_levels)}"
            )

    def check(self, model: VQConfig, image_size: int) -> None:
        """Refuse what does not fit the architecture or the images, before anything is built.

        Args:
            model: the architecture.
            image_size: side of the images, pixels.

        Raises:
            InputError: levels that do not multiply to K, or images too small for a loss.
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
                f"it takes {3 * 2**self.adversarial.layers} pixels; lower it or turn adversarial.weight to 0"
            )
        if self.loss.perceptual and image_size < 16:
            raise InputError(f"loss.perceptual takes images of at least 16 pixels; given {image_size}")
