"""What is timed: each workload builds the same work in several variants, ours and the reference among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.bench.config import BenchConfig
from purrception.bench.reference import reference_loss, reference_mean
from purrception.flow import (
    Guidance,
    LinearPath,
    ObjectiveConfig,
    PredictionOptions,
    TrainingBatch,
    build_objective,
)
from purrception.models import PurrceptionTransformer
from purrception.training.ema import EMA

Step = Callable[[], None]
REFERENCE = "reference"
Z_LOSS, TEMPERATURE, TIME = 1e-5, 0.9, 0.4
PATH = LinearPath()


@dataclass(frozen=True)
class Workload:
    """One kind of work."""

    title: str
    variants: dict[str, Callable[[BenchConfig, int, torch.device], Step]]
    """Name → (config, images, device) → one step of it; the first is ours, as configured."""


def _batch(config: BenchConfig, images: int, device: torch.device) -> TrainingBatch:
    side = (images, config.grid, config.grid)
    return TrainingBatch(
        indices=torch.randint(config.codebook_size, side).to(device),
        labels=torch.randint(1000, (images,)).to(device),
        noise=torch.randn(images, config.codebook_dim, config.grid, config.grid).to(device),
        time=torch.rand(images).to(device),
    )


def _training(
    config: BenchConfig, device: torch.device, network: PurrceptionTransformer, loss: Callable[[], Tensor]
) -> Step:
    """Loss, gradient, clipping, optimiser, moving average: a step of the training loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    ema = EMA(network, 0.9999)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with config.autocast(device):
            total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update(network, 1000)

    return step


def _our_training(config: BenchConfig, images: int, device: torch.device, head: str | None = None) -> Step:
    network, batch = config.build(device, head), _batch(config, images, device)
    objective = build_objective(ObjectiveConfig(z_loss=Z_LOSS))
    return _training(config, device, network, lambda: objective.loss(network, batch).total)


def _factored_training(config: BenchConfig, images: int, device: torch.device) -> Step:
    return _our_training(config, images, device, head="factored")


def _reference_training(config: BenchConfig, images: int, device: torch.device) -> Step:
    network, batch = config.build(device, "linear"), _batch(config, images, device)

    def loss() -> Tensor:
        point = PATH.sample(network.embed(batch.indices), batch.noise, batch.time)
        features = network(point.z_t, point.t, batch.labels)
        return reference_loss(network, features, batch.indices, Z_LOSS)

    return _training(config, device, network, loss)


def _sampling(config: BenchConfig, images: int, device: torch.device, guidance: float = 1.0) -> Step:
    network, batch = config.build(device).eval(), _batch(config, images, device)
    objective = build_objective(ObjectiveConfig())
    options = PredictionOptions(TEMPERATURE, guidance=Guidance(guidance))

    @torch.no_grad()
    def step() -> None:
        with config.autocast(device):
            mean = objective.predict(network, batch.noise, TIME, batch.labels, options).mean
        PATH.advance(batch.noise, mean, TIME, TIME + 0.01)

    return step


def _guided_sampling(config: BenchConfig, images: int, device: torch.device) -> Step:
    return _sampling(config, images, device, guidance=1.5)


def _reference_sampling(config: BenchConfig, images: int, device: torch.device) -> Step:
    network, batch = config.build(device, "linear").eval(), _batch(config, images, device)
    time = torch.full((images,), TIME, device=device)

    @torch.no_grad()
    def step() -> None:
        with config.autocast(device):
            mean, _ = reference_mean(network, network(batch.noise, time, batch.labels), TEMPERATURE)
        PATH.advance(batch.noise, mean, TIME, TIME + 0.01)

    return step


def _head(config: BenchConfig, images: int, device: torch.device, kind: str | None = None) -> Step:
    network, batch = config.build(device, kind), _batch(config, images, device)
    features = _features(config, images, device)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        features.grad = None
        with config.autocast(device):
            total = network.head.loss(features, batch.indices, Z_LOSS).total
        total.backward()

    return step


def _factored_head(config: BenchConfig, images: int, device: torch.device) -> Step:
    return _head(config, images, device, kind="factored")


def _reference_head(config: BenchConfig, images: int, device: torch.device) -> Step:
    network, batch = config.build(device, "linear"), _batch(config, images, device)
    features = _features(config, images, device)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        features.grad = None
        with config.autocast(device):
            total = reference_loss(network, features, batch.indices, Z_LOSS)
        total.backward()

    return step


def _features(config: BenchConfig, images: int, device: torch.device) -> Tensor:
    sizes = config.sizes()
    side = config.grid // sizes.patch_size
    return torch.randn(images, side, side, sizes.width).to(device).requires_grad_(True)


WORKLOADS: dict[str, Workload] = {
    "training": Workload(
        "Training step",
        {"ours": _our_training, "factored head": _factored_training, REFERENCE: _reference_training},
    ),
    "sampling": Workload(
        "Sampling step",
        {"ours": _sampling, "guided": _guided_sampling, REFERENCE: _reference_sampling},
    ),
    "head": Workload(
        "Vocabulary head alone, forward and backward",
        {"ours": _head, "factored head": _factored_head, REFERENCE: _reference_head},
    ),
}
