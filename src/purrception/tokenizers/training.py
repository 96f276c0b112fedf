"""Training a VQ autoencoder whose codebook does not collapse."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from purrception.data import ImageSource, images_to_tensor
from purrception.errors import InputError
from purrception.keyed_rng import Stream, keyed_rng
from purrception.progress import ProgressBar
from purrception.tokenizers.vq import VQConfig, VQTokenizer

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """How a tokenizer is trained."""

    steps: int = 600
    """Optimiser steps; the learning rate falls to zero over them (cosine)."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    commitment: float = 0.25
    """Weight of the commitment loss, which keeps encoder outputs near their codes."""
    codebook_decay: float = 0.95
    """Decay of the moving average that the codebook follows."""
    dead_code_threshold: float = 1.0
    """A code that stands for fewer sites per batch than this (moving average) restarts from the batch."""
    report_every: int = 100
    """Steps between two measurements on held-out images."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.steps < 1 or self.batch_size < 1 or self.report_every < 1:
            raise InputError(
                "tokenizer training needs steps, batch_size and report_every of at least 1; given "
                f"{self.steps}, {self.batch_size} and {self.report_every}"
            )
        if self.dead_code_threshold < 0:
            raise InputError(f"dead_code_threshold is at least 0 (never); given {self.dead_code_threshold}")


@dataclass(frozen=True)
class Reconstruction:
    """How well a tokenizer rebuilds images and how much of its codebook it uses."""

    psnr: float
    """Peak signal-to-noise ratio in dB, over all pixels together."""
    usage: float
    """Share of the codes that occur at least once."""
    perplexity: float
    """exp(entropy) of the code histogram: the number of codes in effective use."""


@torch.no_grad()
def measure(tokenizer: VQTokenizer, images: Tensor, batch_size: int = 256) -> Reconstruction:
    """Reconstruction quality and codebook use on images ``[n, C, H, W]`` in [−1, 1]."""
    squared_error, counts = 0.0, torch.zeros(len(tokenizer.codebook))
    for batch in images.split(batch_size):
        indices = tokenizer.encode(batch)
        rebuilt = tokenizer.decode(indices).clamp(-1, 1).cpu()
        squared_error += float((rebuilt - batch).double().square().sum())
        counts += indices.flatten().bincount(minlength=len(counts)).float().cpu()
    mean_squared_error = squared_error / images.numel()
    shares = counts / counts.sum()
    entropy = -float(torch.xlogy(shares, shares).sum())
    return Reconstruction(
        psnr=10 * math.log10(4 / max(mean_squared_error, 1e-12)),  # the range [−1, 1] has a peak of 2
        usage=float((counts > 0).float().mean()),
        perplexity=math.exp(entropy),
    )


def train_tokenizer(
    vq_config: VQConfig,
    config: TokenizerTrainingConfig,
    train: ImageSource,
    held_out: ImageSource,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> VQTokenizer:
    """Train a tokenizer on ``train``, measure it on ``held_out`` and save it in ``folder``.

    The codebook starts from k-means of the first batch, follows a moving average of the encoder's outputs,
    and codes that fall out of use are restarted from the batch (through vector-quantize-pytorch); the
    encoder receives its gradient by the rotation trick (arXiv 2410.06424).

    Args:
        vq_config: the architecture.
        config: the training.
        train: images to learn from.
        held_out: images to measure on; at most 512 of them are used. Falls back to ``train`` when empty.
        folder: where the tokenizer and its ``metrics.jsonl`` go.
        seed: of the initial weights, the order of the images and the restarted codes.
        device: where to train; the tokenizer stays there.
    """
    if len(train) == 0:
        raise InputError("there are no training images: check data.root and data.test_fraction")
    reference = held_out if len(held_out) else train
    judged = images_to_tensor([reference[i][0] for i in range(min(len(reference), 512))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vq = vq_config.build(image_channels=judged.shape[1], image_size=judged.shape[-1])
        quantiser = VectorQuantize(
            dim=vq_config.codebook_dim,
            codebook_size=vq_config.codebook_size,
            decay=config.codebook_decay,
            commitment_weight=config.commitment,
            kmeans_init=True,
            threshold_ema_dead_code=config.dead_code_threshold,
            rotation_trick=True,
            accept_image_fmap=True,
        )
        _fit(vq.to(device), quantiser.to(device), config, train, judged, folder, seed)
    tokenizer = VQTokenizer(vq)
    tokenizer.save(folder)
    return tokenizer


def _fit(
    vq: VQModel,
    quantiser: VectorQuantize,
    config: TokenizerTrainingConfig,
    train: ImageSource,
    judged: Tensor,
    folder: Path,
    seed: int,
) -> None:
    """Optimise the autoencoder in place; the learned codebook ends in ``vq.quantize``."""
    optimizer = torch.optim.AdamW(vq.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS_FILE).open("w") as metrics, ProgressBar("tokenizer", config.steps) as bar:
        for step in range(1, config.steps + 1):
            rows = keyed_rng(seed, Stream.TOKENIZER, step).integers(len(train), size=config.batch_size)
            images = images_to_tensor([train[int(row)][0] for row in rows]).to(vq.device)
            vq.train()
            latents = vq.encode(images).latents
            quantised, _, commitment = quantiser(latents.float())
            rebuilt = vq.decode(quantised, force_not_quantize=True).sample
            loss = F.mse_loss(rebuilt, images) + 0.1 * F.l1_loss(rebuilt, images) + commitment.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vq.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            figures = ""
            if step % config.report_every == 0 or step == config.steps:
                vq.quantize.embedding.weight.data.copy_(quantiser.codebook)
                vq.eval()
                measured = measure(VQTokenizer(vq), judged)
                vq.requires_grad_(True)
                metrics.write(json.dumps({"step": step, "loss": loss.item(), **asdict(measured)}) + "\n")
                metrics.flush()
                figures = (
                    f"psnr {measured.psnr:.1f} dB  codes used {measured.usage:.0%}  "
                    f"perplexity {measured.perplexity:.0f}"
                )
            bar.update(step, figures)
