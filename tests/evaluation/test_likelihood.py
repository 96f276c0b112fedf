"""The bound on the likelihood is chosen on other images than those it is reported on."""

from __future__ import annotations

import torch

from purrception.evaluation.metrics.likelihood import cross_selected


def test_choosing_among_equal_bounds_does_not_lower_the_figure() -> None:
    """29 ends of one mean: the smallest of their means on the same images is low by two standard errors."""
    generator = torch.Generator().manual_seed(0)
    errors, naive = [], []
    for seed in range(200):
        bounds = torch.randn(29, 64, generator=generator, dtype=torch.float64)
        errors.append(cross_selected(bounds, seed).mean() * 64**0.5)
        naive.append(bounds.mean(1).min() * 64**0.5)
    assert torch.stack(naive).mean() < -1.8
    assert torch.stack(errors).mean().abs() < 3 / 200**0.5


def test_a_bound_that_is_plainly_tighter_is_chosen_for_every_image() -> None:
    bounds = torch.randn(5, 9, dtype=torch.float64)
    bounds[3] -= 10
    assert torch.equal(cross_selected(bounds), bounds[3])
