"""Generation of images: guided steps from noise to codes, and the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from purrception.bench.config import BenchConfig
from purrception.bench.data import build_tokenizer
from purrception.bench.reference import full_logits
from purrception.flow import Draws, Generation, LinearPath, ObjectiveConfig, SamplingConfig, build_objective
from purrception.flow.nearest import nearest_codes
from purrception.generation.cuda_graphs import Recording
from purrception.generation.sampler import KeyedDraws, sample_codes

GUIDANCE, TEMPERATURE = 1.5, 0.9
PATH = LinearPath()


def generate(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """As ``purrception sample``: classes and null class in one pass of the backbone, and one pass of the head."""
    network, tokenizer = config.build(device).eval(), build_tokenizer(config, device)
    objective, labels, settings = build_objective(ObjectiveConfig()), torch.arange(images), _settings(config)

    def step() -> Tensor:
        with config.autocast(device):
            codes = sample_codes(network, objective, labels, settings, 0, images).indices
        return tokenizer.decode(codes.to(device))

    return step


def generate_recorded(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """The same with CUDA graphs: the steps of a batch are recorded once and replayed (``sample --record``)."""
    network, tokenizer = config.build(device).eval(), build_tokenizer(config, device)
    objective, settings = build_objective(ObjectiveConfig()), _settings(config)
    labels = torch.arange(images, device=device)

    @torch.no_grad()
    def make(labels: Tensor, draws: Draws) -> Generation:
        with config.autocast(device, cache=False):  # cached copies of weights would be gone at a replay
            return objective.generate(network, labels, draws, settings)

    recording = Recording(make, labels, KeyedDraws(0, range(images), network))

    def step() -> Tensor:
        return tokenizer.decode(recording(labels, KeyedDraws(0, range(images), network)).indices)

    return step


def _settings(config: BenchConfig) -> SamplingConfig:
    return SamplingConfig(
        num_inference_steps=config.steps, solver="euler", guidance_scale=GUIDANCE, temperature=TEMPERATURE
    )


def generate_plainly(config: BenchConfig, images: int, device: torch.device) -> Callable[[], Tensor]:
    """The paper's sampler over full logits, of which guidance needs two sets."""
    network, tokenizer = config.build(device).eval(), build_tokenizer(config, device)
    labels = torch.arange(images, device=device)
    null = torch.full_like(labels, network.num_classes)

    @torch.no_grad()
    def step() -> Tensor:
        z = torch.randn(images, config.codebook_dim, config.grid, config.grid, device=device)
        for number in range(config.steps):
            t, s = number / config.steps, (number + 1) / config.steps
            time = torch.full((images,), t, device=device)
            with config.autocast(device):
                cond, uncond = (full_logits(network.head, network(z, time, y)).float() for y in (labels, null))
            logits = uncond + GUIDANCE * (cond - uncond)
            mean = ((logits / TEMPERATURE).softmax(dim=-1) @ network.codebook).permute(0, 3, 1, 2)
            z = PATH.advance(z, mean, t, s)
        return tokenizer.decode(nearest_codes(z, network.codebook))

    return step
