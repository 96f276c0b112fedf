"""Networks and damaged posteriors compared with the exact posterior: the tables of docs/results/diagnostics.md.

    python benchmarks/exact_posterior.py line
    python benchmarks/exact_posterior.py overfit runs/digits

``line``: K = 3 codes on a line. The error bound of docs/concepts/theory.md for posteriors damaged on purpose and
for a network after three durations of training, with the distance that it bounds, which on a line is W₂ itself.
``overfit``: the network of the digits recipe memorises 32 images of a run; its KL to the exact posterior over t.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.experiment.build import build_network
from purrception.experiment.config import load_config
from purrception.flow import ObjectiveConfig, TrainingBatch, build_objective
from purrception.instruments.bound import check_bound, growth_on_a_line
from purrception.instruments.oracle import Gap, Oracle
from purrception.instruments.posteriors import LogPosterior, blurred, network_posterior, shifted, tempered
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training import RunDirectory

LINE = torch.tensor([[-1.3], [0.2], [1.1]])
OBJECTIVE = build_objective(ObjectiveConfig())
TIMES = tuple(0.9 * n / 90 for n in range(91))
TABLED = (33, 60, 80)


def train(network: PurrceptionTransformer, grids: Tensor, steps: int, batch: int, rate: float) -> None:
    """AdamW over the one-cycle schedule, on grids of equal weight, without labels."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    labels = torch.full((batch,), network.num_classes)
    shape = (batch, network.codebook.shape[1], *network.grid)
    for _ in range(steps):
        chosen = grids[torch.randint(len(grids), (batch,))]
        optimizer.zero_grad()
        drawn = TrainingBatch(chosen, labels, torch.randn(shape), torch.rand(batch))
        OBJECTIVE.loss(network, drawn).total.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)


def in_float32(network: PurrceptionTransformer) -> LogPosterior:
    """The posterior of a network without classes, for any number of states in double precision."""

    def log_posterior(z: Tensor, t: float) -> Tensor:
        return network_posterior(network, torch.zeros(len(z), dtype=torch.long))(z.float(), t).double()

    return log_posterior


def posteriors(exact: LogPosterior, grids: Tensor) -> Iterator[tuple[str, LogPosterior]]:
    """Everything the bound is tried on, by name."""
    for tau in (0.5, 0.8, 1.25, 2.0):
        yield f"exact, τ = {tau:g}", tempered(exact, tau)
    for share in (0.01, 0.1, 0.5, 1.0):
        yield f"exact, {share:.0%} blurred", blurred(exact, share)
    for scale in (0.1, 0.5, 2.0):
        yield f"exact, logits shifted by {scale:g}", shifted(exact, scale)
    for steps in (30, 300, 1500):
        torch.manual_seed(0)
        network = PurrceptionTransformer(
            grid=(1, 1), codebook_size=3, codebook_dim=1, num_classes=0, depth=2, width=32, heads=2, patch_size=1
        )
        network.set_codebook(LINE)
        train(network, grids, steps, 256, 4e-3)
        yield f"network, {steps} steps", in_float32(network)


def line() -> None:
    """The bound on a line."""
    grids = torch.tensor([0, 0, 0, 1, 1, 2]).view(6, 1, 1)
    exact = Oracle(grids, LINE).posterior()
    quantiles = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    noise = torch.special.ndtri(quantiles).view(-1, 1, 1, 1)
    heads = " | ".join(f"W₂ | × by paths | × by ε, λ | × by KL (t = {TIMES[n]:.2f})" for n in TABLED)
    print(f"| posterior | {heads} | held |\n|{'---|' * (2 + 4 * len(TABLED))}")
    for name, model in posteriors(exact, grids):
        found = check_bound(exact, model, LINE.double(), noise, TIMES, growth_on_a_line(model, LINE.double()))
        cells = []
        for n in TABLED:
            tight = found.tightness(n)
            cells += [
                float(found.distance[n]),
                tight["bound_by_paths"],
                tight["bound"],
                tight["bound_by_divergence"],
            ]
        row = " | ".join(f"{cell:.3g}" for cell in cells)
        print(f"| {name} | {row} | {'yes' if found.held else 'no'} |", flush=True)


def overfit(root: str, steps: int = 1500) -> None:
    """Memorise 32 images."""
    run = RunDirectory.open(root)
    config, tokens = load_config(run.config_file), TokenDataset(run.tokens / "train")
    grids = torch.from_numpy(tokens.rows(spread_rows(len(tokens), 32))[0])
    network = build_network(config, tokens.manifest, VQTokenizer.load(Path(run.tokenizer)))
    torch.manual_seed(0)
    train(network, grids, steps, 64, 2e-3)
    labels = torch.full((512,), network.num_classes)
    exact, model = Oracle(grids, network.codebook).posterior(), network_posterior(network, labels)
    found = []
    print("| t | KL to the exact posterior, nats per token | total variation |\n|---|---|---|")
    for t in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95):
        noise = torch.randn(512, network.codebook.shape[1], *network.grid)
        z = OBJECTIVE.state_at(network, grids.repeat(16, 1, 1), noise, t).z
        gap = Gap.of(exact(z, t), model(z, t), network.codebook, t)
        found.append(float(gap.divergence.mean()))
        print(f"| {t:.2f} | {found[-1]:.4f} | {float(gap.total_variation.mean()):.4f} |")
    print(f"| mean | {sum(found) / len(found):.4f} | |")


if __name__ == "__main__":
    line() if sys.argv[1:2] == ["line"] else overfit(sys.argv[2])
