"""The exact posterior against Bayes' rule written out, and what follows from having it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from purrception.flow import ObjectiveConfig, build_objective, get_solver, get_timesteps, nearest_codes
from purrception.instruments.bound import (
    check_bound,
    codebook_diameter,
    growth_between,
    growth_on_a_line,
    pinsker,
    wasserstein_bound,
)
from purrception.instruments.oracle import Gap, MeanGap, Memorisation, Oracle, nearest_grid, site_divergences
from purrception.instruments.posteriors import (
    blurred,
    mean_function,
    network_posterior,
    posterior_mean,
    shifted,
    tempered,
)
from purrception.models import PurrceptionTransformer

LINE = torch.tensor([[-1.3], [0.2], [1.1]], dtype=torch.float64)


def brute_force(z: Tensor, t: float, prior: dict[tuple[int, ...], float], codebook: Tensor) -> Tensor:
    """p(c_i = k | z) by a loop over every grid there can be, ``[sites, K]``, for one state ``[D, h, w]``."""
    sites = z.flatten(1).T
    total = torch.zeros(len(sites), len(codebook), dtype=torch.float64)
    for grid in itertools.product(range(len(codebook)), repeat=len(sites)):
        density = torch.distributions.Normal(t * codebook[list(grid)], 1 - t).log_prob(sites).sum().exp()
        for site, code in enumerate(grid):
            total[site, code] += prior.get(grid, 0.0) * density
    return total / total.sum(1, keepdim=True)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.9])
def test_oracle_equals_enumeration_to_1e_10(t: float) -> None:
    codebook = torch.randn(3, 2, dtype=torch.float64)
    grids = torch.randint(3, (7, 2, 2))
    grids[6] = grids[0]  # a grid that occurs twice weighs twice
    prior: dict[tuple[int, ...], float] = {}
    for grid in grids.flatten(1).tolist():
        prior[tuple(grid)] = prior.get(tuple(grid), 0.0) + 1 / 7
    noise = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    z = torch.lerp(noise, codebook[grids[:3]].movedim(-1, 1), t)  # elsewhere the densities below underflow
    found = Oracle(grids, codebook).probabilities(z, t)
    for state, said in zip(z, found, strict=True):
        expected = brute_force(state, t, prior, codebook)
        assert float((said.flatten(0, 1) - expected).abs().max()) < 1e-10


def test_a_label_stands_for_the_grids_of_its_class_and_the_null_class_for_all() -> None:
    codebook, grids, classes = torch.randn(4, 2), torch.randint(4, (9, 2, 3)), torch.arange(9) % 3
    z = torch.randn(3, 2, 2, 3)
    found = Oracle(grids, codebook, classes).probabilities(z, 0.4, torch.tensor([0, 2, 3]))
    for number, chosen in enumerate((grids[classes == 0], grids[classes == 2], grids)):
        expected = Oracle(chosen, codebook).probabilities(z[number : number + 1], 0.4)[0]
        torch.testing.assert_close(found[number], expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="0 ≤ t < 1"):
        Oracle(grids, codebook).probabilities(z, 1.0)


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "dpmpp_2m", "stochastic", "dopri5"])
def test_with_the_oracle_for_a_network_every_solver_lands_on_data(solver: str) -> None:
    codebook, grids = torch.randn(12, 3), torch.randint(12, (40, 2, 3))
    oracle = Oracle(grids, codebook)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(64, 3, 2, 3, generator=generator)
    run = get_solver(solver, noise=lambda step: torch.randn(noise.shape, generator=generator))
    end = run(mean_function(oracle.posterior(), codebook), noise, get_timesteps("uniform", 64))
    landed = nearest_grid(nearest_codes(end, codebook), grids) == 0
    assert float(landed.double().mean()) > 0.98


def test_gap_is_nothing_to_itself_and_what_it_says_to_others() -> None:
    codebook = torch.randn(5, 3)
    p, q = torch.randn(4, 2, 2, 5).log_softmax(-1), torch.randn(4, 2, 2, 5).log_softmax(-1)
    none = Gap.of(p, p, codebook, 0.5)
    assert max(float(value.abs().max()) for value in vars(none).values()) < 1e-6
    divergence, variation = site_divergences(p, q)
    by_torch = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p.double()), torch.distributions.Categorical(logits=q.double())
    )
    torch.testing.assert_close(divergence, by_torch)
    assert bool((variation <= pinsker(divergence)).all())
    certain = torch.tensor([0.0, -torch.inf])
    assert site_divergences(certain, torch.tensor([0.5, 0.5]).log())[0] == pytest.approx(0.6931472, abs=1e-6)


def test_copies_are_told_from_new_grids() -> None:
    train, held_out = torch.randint(6, (50, 3, 3)), torch.randint(6, (30, 3, 3))
    assert nearest_grid(train, train).max() == 0
    changed = train.clone()
    changed[:, 0, 0] = (changed[:, 0, 0] + 1) % 6
    assert nearest_grid(changed[:1], train[:1]) == 1
    learned_by_heart = Memorisation.of(train[:20], held_out, train)
    assert (learned_by_heart.copies, learned_by_heart.held_out_copies) == (1.0, 0.0)
    assert learned_by_heart.nearer == 1.0
    generalised = Memorisation.of(torch.randint(6, (200, 3, 3)), torch.randint(6, (200, 3, 3)), train)
    assert generalised.nearer == pytest.approx(0.5, abs=0.1)


def test_upper_sum_of_the_wasserstein_bound_meets_its_closed_form() -> None:
    times = tuple(n / 1000 * 0.8 for n in range(1001))
    errors = torch.full((len(times),), 0.3)
    bound = wasserstein_bound(times, errors, torch.full_like(errors, 2.0))
    assert float(bound[-1]) == pytest.approx(0.3 * (torch.tensor(1.6).exp().item() - 1) / 2.0, rel=3e-3)
    assert float(wasserstein_bound(times, errors, torch.full_like(errors, -2.0))[-1]) < 0.3 * 0.8


DAMAGES = [
    lambda p: tempered(p, 0.7),
    lambda p: tempered(p, 1.6),
    lambda p: blurred(p, 0.02),
    lambda p: blurred(p, 0.5),
    lambda p: shifted(p, 0.3),
    lambda p: shifted(p, 2.0, seed=1),
    lambda p: lambda z, t: p(z, t).exp().flip(-1).log().clamp_min(-40).log_softmax(-1),  # codes swapped
    lambda p: lambda z, t: torch.zeros_like(p(z, t)).log_softmax(-1),  # knows nothing
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_bound_holds_on_a_line_for_every_damage(damage: object) -> None:
    exact = Oracle(torch.tensor([0, 0, 0, 1, 1, 2]).view(6, 1, 1), LINE).posterior()
    model = damage(exact)  # type: ignore[operator]
    # Quantiles of the noise: on a line both flows keep their order, so that the coupled distance is W₂ itself.
    quantiles = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    noise = torch.special.ndtri(quantiles).view(-1, 1, 1, 1)
    times = tuple(0.7 * n / 40 for n in range(41))
    found = check_bound(exact, model, LINE, noise, times, growth_on_a_line(model, LINE))
    assert found.held
    tightness = found.tightness()
    assert 1 <= tightness["bound_by_paths"] <= 6
    assert tightness["bound_by_paths"] <= tightness["bound"] <= tightness["bound_by_divergence"]


@pytest.mark.parametrize("damage", DAMAGES[::2])
def test_the_bound_holds_on_grids(damage: object) -> None:
    codebook = torch.randn(4, 2, dtype=torch.float64)
    exact = Oracle(torch.randint(4, (5, 2, 2)), codebook).posterior()
    model = damage(exact)  # type: ignore[operator]
    noise = torch.randn(24, 2, 2, 2, dtype=torch.float64)
    times = tuple(0.7 * n / 20 for n in range(21))
    found = check_bound(exact, model, codebook, noise, times, growth_between(model, codebook))
    assert found.held


def test_diameter_is_the_largest_distance() -> None:
    codes = torch.randn(40, 3)
    assert codebook_diameter(codes) == pytest.approx(float(torch.pdist(codes.double()).max()))


@pytest.mark.parametrize("name", ["purrception", "cfm"])
def test_the_mean_gap_is_that_of_single_images(name: str) -> None:
    objective = build_objective(ObjectiveConfig(name))
    torch.manual_seed(0)
    network = (
        PurrceptionTransformer(
            (2, 2),
            6,
            3,
            2,
            depth=1,
            width=16,
            heads=2,
            patch_size=1,
            head_kind="linear" if name == "purrception" else "regression",
        )
        .eval()
        .requires_grad_(False)
    )
    network.set_codebook(torch.randn(6, 3))
    indices, labels, noise, t = torch.randint(6, (5, 2, 2)), torch.arange(5) % 2, torch.randn(5, 3, 2, 2), 0.4
    oracle = Oracle(torch.randint(6, (8, 2, 2)), network.codebook)
    found = MeanGap.of(oracle, network, objective, indices, labels, noise, t)
    z = objective.state_at(network, indices, noise, t).z
    exact = oracle.posterior()(z, t)
    mean = posterior_mean(exact, network.codebook.double())
    predicted = objective.predict(network, z, t, labels).mean
    error = (predicted.double() - mean).flatten(1).norm(dim=1) / (1 - t)
    assert found.velocity_error == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    assert found.velocity == pytest.approx(
        float(((mean - z) / (1 - t)).flatten(1).norm(dim=1).square().mean().sqrt()), rel=1e-4
    )
    assert found.exact_entropy == pytest.approx(float(torch.special.entr(exact.exp()).sum(-1).mean()), rel=1e-4)
    if name == "cfm":
        assert (found.divergence, found.total_variation) == (None, None)
    else:
        gap = Gap.of(exact, network_posterior(network, labels)(z, t), network.codebook, t)
        assert found.divergence == pytest.approx(float(gap.divergence.mean()))
        assert found.total_variation == pytest.approx(float(gap.total_variation.mean()))
