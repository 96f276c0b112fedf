"""A training step of the authors' public code beside ours: python benchmarks/public.py CHECKOUT [--key value …].

CHECKOUT is a clone of github.com/razvanmatisan/purrception; its network needs timm and einops. Options are those
of ``purrception bench``. Both networks take the same batch through the same optimiser and moving average; theirs
has its own loss (a cross-entropy and a z-loss over all logits). Data loading and DeepSpeed are left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from purrception.bench import BenchConfig
from purrception.bench.generation import PATH
from purrception.bench.measure import peak_of_steps, ratio, seconds_in_turns
from purrception.bench.workloads import Z_LOSS, Step, optimised, random_batch, train_ours
from purrception.training.config import resolve_device


def train_theirs(checkout: Path, config: BenchConfig, images: int, device: torch.device) -> Step:
    """A step of their network, as their trainer computes it."""
    sys.path.insert(0, str(checkout))
    from models.dit import DiT

    sizes = config.sizes()
    torch.manual_seed(0)
    network = DiT(
        input_size=config.grid, patch_size=sizes.patch_size, in_channels=config.codebook_dim,
        hidden_size=sizes.width, depth=sizes.depth, num_heads=sizes.heads, mlp_ratio=4, num_classes=1000,
        model_type="purrception", vocabulary_size=config.codebook_size,
    ).to(device)  # fmt: skip
    nn.init.normal_(network.final_layer.linear.weight, std=0.02)
    codebook = torch.randn(config.codebook_size, config.codebook_dim).to(device)
    batch = random_batch(config, images, device)
    z_1 = F.embedding(batch.indices, codebook).permute(0, 3, 1, 2)

    def loss() -> Tensor:
        point = PATH.sample(z_1, batch.noise, batch.time)
        logits = network(point.z_t, point.t, batch.labels, 1.0)
        z_loss = torch.logsumexp(logits, dim=1).square().mean()
        return F.cross_entropy(logits, batch.indices) + Z_LOSS * z_loss

    return optimised(config, device, network, loss)


def measure_memory(name: str, checkout: Path, config: BenchConfig, images: int) -> int:
    """Peak bytes of two steps, in a process of its own."""
    order = json.dumps([name, str(checkout), vars(config), images])
    child = subprocess.run(
        [sys.executable, __file__, "--memory", order], capture_output=True, text=True, check=True
    )
    return int(child.stdout.split()[-1])


def start(name: str, checkout: Path, config: BenchConfig, images: int, device: torch.device) -> Step:
    """Ours or theirs."""
    return train_ours(config, images, device) if name == "ours" else train_theirs(checkout, config, images, device)


def _memory_here(name: str, checkout: str, settings: dict[str, object], images: int) -> int:
    config = BenchConfig(**settings)  # type: ignore[arg-type]
    device = resolve_device(config.device)
    return peak_of_steps(lambda: start(name, Path(checkout), config, images, device), device)


def main(checkout: tyro.conf.Positional[Path], config: tyro.conf.OmitArgPrefixes[BenchConfig]) -> None:
    """Time and memory of both, in turns."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    names = ("ours", "public")
    seconds = seconds_in_turns(
        "training", {name: start(name, checkout, config, config.batch_size, device) for name in names},
        config.repeats, device,
    )  # fmt: skip
    print("| training step | ms | images/s | × the public code | peak MB | MB an image |")
    print("|---|---|---|---|---|---|")
    for name in names:
        taken, memory = statistics.median(seconds[name]), "– | –"
        if config.memory:
            small, large = (
                measure_memory(name, checkout, config, count * config.batch_size) / 2**20 for count in (1, 2)
            )
            memory = f"{small:.0f} | {(large - small) / config.batch_size:.1f}"
        speed = (
            f"{1e3 * taken:.0f} | {config.batch_size / taken:.2f} | {ratio(seconds[name], seconds['public']):.2f}"
        )
        print(f"| {name} | {speed} | {memory} |")


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        print(_memory_here(*json.loads(sys.argv[2])))
    else:
        tyro.cli(main, config=(tyro.conf.FlagConversionOff,))  # as `purrception bench` reads its options
