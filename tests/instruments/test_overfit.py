"""A model that is given 32 images to learn by heart comes to the exact posterior."""

from __future__ import annotations

import pytest
import torch

from purrception.flow import ObjectiveConfig, TrainingBatch, build_objective
from purrception.instruments.bound import check_bound, growth_between
from purrception.instruments.oracle import Gap, Oracle
from purrception.instruments.posteriors import network_posterior
from purrception.models import PurrceptionTransformer

BATCH, STEPS, RATE = 256, 450, 8e-3


@pytest.mark.slow
def test_32_images_learned_by_heart_are_within_0_05_nats_of_the_oracle_and_the_bound_holds() -> None:
    network = PurrceptionTransformer(
        grid=(2, 2), codebook_size=8, codebook_dim=2, num_classes=0, depth=2, width=64, heads=4, patch_size=1
    )
    network.set_codebook(torch.randn(8, 2))
    grids, labels = torch.randint(8, (32, 2, 2)), torch.zeros(1024, dtype=torch.long)
    objective = build_objective(ObjectiveConfig())
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.05)
    for _ in range(STEPS):
        chosen = grids[torch.randint(32, (BATCH,))]
        batch = TrainingBatch(chosen, labels[:BATCH], torch.randn(BATCH, 2, 2, 2), torch.rand(BATCH))
        optimizer.zero_grad()
        objective.loss(network, batch).total.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    exact, model = Oracle(grids, network.codebook).posterior(), network_posterior(network, labels)
    gaps = []
    for t in torch.linspace(0.05, 0.95, 10).tolist():
        z = objective.state_at(network, grids.repeat(32, 1, 1), torch.randn(1024, 2, 2, 2), t).z
        gaps.append(float(Gap.of(exact(z, t), model(z, t), network.codebook, t).divergence.mean()))
    assert sum(gaps) / len(gaps) < 0.05
    times = tuple(0.7 * n / 14 for n in range(15))
    model = network_posterior(network, labels[:16])
    noise = torch.randn(16, 2, 2, 2)
    assert check_bound(exact, model, network.codebook, noise, times, growth_between(model, network.codebook)).held
