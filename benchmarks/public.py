"""A training step of the authors' public code and of ours: python benchmarks/public.py CHECKOUT [--key value …].

CHECKOUT is a clone of github.com/razvanmatisan/purrception; its network needs timm and einops. Options are those
of ``purrception bench``. Both networks are trained on the same batch with the same optimiser and moving average;
theirs has its own loss (a cross-entropy and a z-loss over all logits). Data loading and DeepSpeed are left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from purrception.bench import BenchConfig
from purrception.bench.generation import PATH
from purrception.bench.measure import measure_alone, peak_of_steps, ratio, seconds_in_turns
from purrception.bench.workloads import Z_LOSS, Step, optimised, random_batch, train_ours
from purrception.utils.devices import resolve_device

NAMES = ("ours", "public")


def train_theirs(checkout: Path, config: BenchConfig, images: int, device: torch.device) -> Step:
    """A step of their network, as their trainer computes it."""
    sys.path.insert(0, str(checkout))
    from models.dit import DiT

    sizes = config.sizes()
    torch.manual_seed(0)
    network = DiT(
        input_size=config.grid,
        patch_size=sizes.patch_size,
        in_channels=config.codebook_dim,
        hidden_size=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_ratio=4,
        num_classes=1000,
        model_type="purrception",
        vocabulary_size=config.codebook_size,
    ).to(device)
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
    seconds, memory = (alone if config.alone(device) else in_turns)(checkout, config, device)
    print("| training step | ms | images/s | × the public code | peak MB | MB an image |")
    print("|---|---|---|---|---|---|")
    for name, taken in seconds.items():
        speed = (
            f"{1e3 * statistics.median(taken):.0f} | {config.batch_size / statistics.median(taken):.2f} | "
            f"{ratio(taken, seconds['public']):.2f}"
        )
        print(f"| {name} | {speed} | {memory.get(name, '– | –')} |")


def in_turns(
    checkout: Path, config: BenchConfig, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of both in turns; the memory of each, and of one more image, in processes of their own."""
    steps = {name: start(name, checkout, config, config.batch_size, device) for name in NAMES}
    seconds = seconds_in_turns("training", steps, config.repeats, device)
    del steps
    memory = {}
    for name in NAMES if config.memory else ():
        small, large = (measure_memory(name, checkout, config, count * config.batch_size) for count in (1, 2))
        memory[name] = shown(small, (large - small) / config.batch_size)
    return seconds, memory


def alone(
    checkout: Path, config: BenchConfig, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The same one after the other, as a GPU needs; one more image is measured against half the batch."""
    seconds, memory = {}, {}
    half = max(1, config.batch_size // 2)
    for name in NAMES:
        whole, smaller = (
            measure_alone(partial(start, name, checkout, config, images, device), repeats, device)
            for images, repeats in ((config.batch_size, config.repeats), (half, 1))
        )
        if whole is None or smaller is None:
            raise SystemExit(f"out of memory with {config.batch_size} images: {name}")
        seconds[name] = whole.seconds
        if whole.bytes is not None and smaller.bytes is not None and half < config.batch_size:
            memory[name] = shown(whole.bytes, (whole.bytes - smaller.bytes) / (config.batch_size - half))
    return seconds, memory


def shown(peak: float, each: float) -> str:
    """Two cells of the table."""
    return f"{peak / 2**20:.0f} | {each / 2**20:.1f}"


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        print(_memory_here(*json.loads(sys.argv[2])))
    else:
        tyro.cli(main, config=(tyro.conf.FlagConversionOff,))  # as `purrception bench` reads its options
