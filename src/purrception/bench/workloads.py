"""The workloads of the benchmark, each in several variants: ours, the reference and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from purrception.bench.config import BenchConfig
from purrception.bench.data import load_batches, load_embeddings, rebuild, rebuild_plainly
from purrception.bench.generation import GUIDANCE, PATH, TEMPERATURE, generate, generate_plainly, generate_recorded
from purrception.bench.others import HeadLoss, others
from purrception.bench.reference import reference_loss, reference_mean
from purrception.flow import Guidance, ObjectiveConfig, PredictionOptions, TrainingBatch, build_objective
from purrception.models import CategoricalHead, Kernel
from purrception.models.fused import triton_runs
from purrception.training.ema import EMA

Step = Callable[[], object]
Build = Callable[[BenchConfig, int, torch.device], Step]
"""(config, images, device) → a step."""
REFERENCE = "reference"
Z_LOSS, TIME = 1e-5, 0.4


@dataclass(frozen=True)
class Variant:
    """One implementation of a workload."""

    build: Build
    head: str = ""
    """Kind of head; empty: that of the configuration."""
    passes: int = 1
    """Number of passes of the backbone."""
    kernel: Kernel | None = None
    """Implementation of losses and posteriors; ``None``: that of the configuration."""

    def of(self, config: BenchConfig) -> BenchConfig:
        """``config`` with this variant's head and kernel."""
        return replace(config, head=self.head or config.head, kernel=self.kernel or config.kernel)

    def start(self, config: BenchConfig, images: int, device: torch.device) -> Step:
        """Build everything that a step needs; return the step."""
        return self.build(self.of(config), images, device)


@dataclass(frozen=True)
class Workload:
    """Work that is measured."""

    title: str
    variants: dict[str, Variant]
    """Variants by name; the first is ours with the configured head and kernel."""


def random_batch(config: BenchConfig, images: int, device: torch.device) -> TrainingBatch:
    """Random codes, labels, noise and times."""
    side = (images, config.grid, config.grid)
    return TrainingBatch(
        indices=torch.randint(config.codebook_size, side).to(device),
        labels=torch.randint(1000, (images,)).to(device),
        noise=torch.randn(images, config.codebook_dim, config.grid, config.grid).to(device),
        time=torch.rand(images).to(device),
    )


def optimised(config: BenchConfig, device: torch.device, network: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """A step of the training loop: loss, gradient, clipping, optimiser, moving average."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    ema, updates = EMA(network, 0.9999), torch.tensor(1000, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with config.autocast(device):
            total = loss()
        total.backward()
        good = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0).isfinite()
        optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        optimizer.step()
        ema.update(network, updates, good)

    return step


def train_ours(config: BenchConfig, images: int, device: torch.device) -> Step:
    """A training step as in the training loop."""
    network, batch = config.build(device), random_batch(config, images, device)
    objective = build_objective(ObjectiveConfig(z_loss=Z_LOSS))
    return optimised(config, device, network, lambda: objective.loss(network, batch).total)


def _reference_training(config: BenchConfig, images: int, device: torch.device) -> Step:
    network, batch = config.build(device), random_batch(config, images, device)

    def loss() -> Tensor:
        point = PATH.sample(network.embed(batch.indices), batch.noise, batch.time)
        features = network(point.z_t, point.t, batch.labels)
        assert isinstance(network.head, CategoricalHead)
        return reference_loss(network.head, features, batch.indices, Z_LOSS)

    return optimised(config, device, network, loss)


def _sampling(config: BenchConfig, images: int, device: torch.device, guidance: float = 1.0) -> Step:
    network, batch = config.build(device).eval(), random_batch(config, images, device)
    objective = build_objective(ObjectiveConfig())
    options = PredictionOptions(TEMPERATURE, guidance=Guidance(guidance))

    @torch.no_grad()
    def step() -> None:
        with config.autocast(device):
            mean = objective.predict(network, batch.noise, TIME, batch.labels, options).mean
        PATH.advance(batch.noise, mean, TIME, TIME + 0.01)

    return step


def _reference_sampling(config: BenchConfig, images: int, device: torch.device) -> Step:
    network, batch = config.build(device).eval(), random_batch(config, images, device)
    time = torch.full((images,), TIME, device=device)

    @torch.no_grad()
    def step() -> None:
        with config.autocast(device):
            features = network(batch.noise, time, batch.labels)
            mean, _ = reference_mean(network.head, features, TEMPERATURE)
        PATH.advance(batch.noise, mean, TIME, TIME + 0.01)

    return step


def _head(loss: HeadLoss) -> Build:
    """Forward and backward pass of a head alone."""

    def build(config: BenchConfig, images: int, device: torch.device) -> Step:
        head, targets = config.build_head(device), random_batch(config, images, device).indices
        side, width = config.grid // config.sizes().patch_size, config.sizes().width
        features = torch.randn(images, side, side, width).to(device).requires_grad_(True)

        def step() -> None:
            head.zero_grad(set_to_none=True)
            features.grad = None
            with config.autocast(device):
                total = loss(head, features, targets)
            total.backward()

        return step

    return build


def _chunked(head: CategoricalHead, features: Tensor, targets: Tensor) -> Tensor:
    return head.loss(features, targets, Z_LOSS).total


def _plain(head: CategoricalHead, features: Tensor, targets: Tensor) -> Tensor:
    return reference_loss(head, features, targets, Z_LOSS)


def _ours(ours: Variant) -> dict[str, Variant]:
    """Ours and, if it uses Triton kernels here, the same in torch operations on chunks of logits."""
    uses_triton = torch.cuda.is_available() and triton_runs(torch.device("cuda"))
    return {"ours": ours} | ({"chunks": replace(ours, kernel="torch")} if uses_triton else {})


WORKLOADS: dict[str, Workload] = {
    "training": Workload(
        "Training step",
        {
            **_ours(Variant(train_ours)),
            "factored head": Variant(train_ours, "factored"),
            REFERENCE: Variant(_reference_training, "linear"),
        },
    ),
    "sampling": Workload(
        "Sampling step",
        {
            **_ours(Variant(_sampling)),
            "guided": Variant(partial(_sampling, guidance=GUIDANCE), passes=2),
            "factored head": Variant(_sampling, "factored"),
            REFERENCE: Variant(_reference_sampling, "linear"),
        },
    ),
    "generation": Workload(
        "Images, guided, from noise to pixels",
        {
            **_ours(Variant(generate, passes=2)),
            "recorded": Variant(generate_recorded, passes=2),
            REFERENCE: Variant(generate_plainly, "linear", passes=2),
        },
    ),
    "head": Workload(
        "Vocabulary head alone, forward and backward",
        {
            **_ours(Variant(_head(_chunked))),
            "factored head": Variant(_head(_chunked), "factored"),
            **{name: Variant(_head(loss), "linear") for name, loss in others().items()},
            REFERENCE: Variant(_head(_plain), "linear"),
        },
    ),
    "loader": Workload("Data loader", {"ours": Variant(load_batches), REFERENCE: Variant(load_embeddings)}),
    "tokenizer": Workload(
        "Tokenizer, to codes and back", {"ours": Variant(rebuild), REFERENCE: Variant(rebuild_plainly)}
    ),
}
