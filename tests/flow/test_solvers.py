"""Solvers on posteriors known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from purrception.flow import (
    SOLVERS,
    LinearPath,
    SolverOptions,
    Timesteps,
    cosine_timesteps,
    dopri5,
    euler,
    get_solver,
    heun,
    log_snr_timesteps,
    nearest_codes,
    stochastic,
    uniform_timesteps,
)
from purrception.flow.solvers import ADAPTIVE_END, Solver
from purrception.utils.errors import InputError

from .oracle import exact_posterior_mean

EVALUATIONS = {"euler": 7, "heun": 13, "midpoint": 13, "dpmpp_2m": 7, "stochastic": 7}  # of 7 steps


@dataclass
class Gaussian:
    """Data N(m, σ²): posterior mean and flow map are known; evaluations are recorded."""

    m: float = 0.7
    sigma: float = 0.5
    times: list[float] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def mean(self, z: Tensor, t: float) -> Tensor:
        """E[z_1 | z_t], by conditioning of jointly Gaussian z_1 and z_t."""
        self.times.append(t)
        self.states.append(z)
        gain = t * self.sigma**2 / (t**2 * self.sigma**2 + (1 - t) ** 2)
        return self.m + gain * (z - t * self.m)

    def flow(self, z_0: Tensor, t: float = 1.0) -> Tensor:
        """Where the exact flow takes ``z_0``."""
        return t * self.m + math.sqrt(t**2 * self.sigma**2 + (1 - t) ** 2) * z_0


def fresh_noise(shape: torch.Size, dtype: torch.dtype = torch.float32, seed: int = 5):
    return lambda step: torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed + step))


def make(name: str, z: Tensor) -> Solver:
    return get_solver(name, noise=fresh_noise(z.shape, z.dtype))


def starts(count: int = 16) -> Tensor:
    return torch.randn(count, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def order(solver: Solver, problem: Gaussian, steps: tuple[int, ...] = (160, 320, 640, 1280)) -> float:
    """Slope of log error against log steps on the uniform grid."""
    z = starts()
    errors = [(solver(problem.mean, z, uniform_timesteps(n)) - problem.flow(z)).abs().max().item() for n in steps]
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("problem", [Gaussian(), Gaussian(m=0.5, sigma=2.0)], ids=["narrow", "wide"])
@pytest.mark.parametrize(
    ("name", "slope", "within"),
    [("euler", -1, 0.15), ("heun", -2, 0.25), ("midpoint", -2, 0.25), ("dpmpp_2m", -2, 0.25)],
)
def test_order_of_accuracy(name: str, slope: float, within: float, problem: Gaussian) -> None:
    assert order(get_solver(name), problem) == pytest.approx(slope, abs=within)


@pytest.mark.parametrize("name", ["heun", "midpoint"])
def test_steps_in_means_are_the_textbook_steps_on_velocities(name: str) -> None:
    problem, path, grid = Gaussian(), LinearPath(), uniform_timesteps(9)[:-1]
    z = expected = starts()

    def velocity(z: Tensor, t: float) -> Tensor:
        return path.velocity(problem.mean(z, t), z, t)

    for t, s in pairwise(grid):
        step, slope = s - t, velocity(expected, t)
        if name == "heun":
            expected = expected + step / 2 * (slope + velocity(expected + step * slope, s))
        else:
            expected = expected + step * velocity(expected + step / 2 * slope, t + step / 2)
    torch.testing.assert_close(get_solver(name)(problem.mean, z, grid), expected)


@pytest.mark.parametrize("name", ["heun", "midpoint", "dpmpp_2m"])
@pytest.mark.parametrize("grid", [uniform_timesteps(32), log_snr_timesteps(32), cosine_timesteps(32)])
def test_second_order_is_closer_than_euler(name: str, grid: Timesteps) -> None:
    problem, z = Gaussian(), starts()
    error = (get_solver(name)(problem.mean, z, grid) - problem.flow(z)).abs().max()
    assert error < 0.5 * (euler(problem.mean, z, grid) - problem.flow(z)).abs().max()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_dopri5_is_accurate_to_its_tolerance(tolerance: float) -> None:
    problem, z = Gaussian(), starts()
    end = dopri5(problem.mean, z, (0.0, 1.0), rtol=tolerance, atol=tolerance)
    assert (end - problem.flow(z)).abs().max() < 5 * tolerance
    assert max(problem.times) <= ADAPTIVE_END
    assert problem.times[-1] == ADAPTIVE_END


def test_dopri5_serves_every_image_of_a_batch() -> None:
    # One hard image among many easy ones: an average over the batch would let its error through.
    z = torch.zeros(400, 1, 1, 1, dtype=torch.float64)
    z[0] = 3.0
    problem = Gaussian(m=0.0, sigma=0.1)
    alone, among = (dopri5(problem.mean, some, (0.0, 1.0), rtol=1e-9, atol=1e-4) for some in (z[:1], z))
    torch.testing.assert_close(among[:1], alone, rtol=0, atol=1e-6)


def test_dopri5_gives_up_with_one_line() -> None:
    z = starts().float()
    with pytest.raises(InputError, match="larger tolerances") as caught:
        dopri5(lambda z, t: torch.full_like(z, math.nan), z, (0.0, 1.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "dpmpp_2m", "dopri5"])
@pytest.mark.parametrize("ends", [(0.0, 0.6), (0.2, 0.7), (0.3, 1.0), (0.99995, 1.0)])
def test_a_grid_may_be_any_part_of_the_path(name: str, ends: tuple[float, float]) -> None:
    problem, z_0 = Gaussian(), starts()
    first, last = ends
    grid = (*(first + (last - first) * x for x in uniform_timesteps(400)[:-1]), last)
    within = 2e-2 if name == "euler" else 1e-3
    reached = get_solver(name)(problem.mean, problem.flow(z_0, first), grid)
    torch.testing.assert_close(reached, problem.flow(z_0, last), rtol=0, atol=within)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_evaluation_is_finite_and_before_one(name: str, dtype: torch.dtype) -> None:
    problem, z = Gaussian(sigma=0.1), starts().to(dtype)
    for grid in (uniform_timesteps(7), log_snr_timesteps(7), uniform_timesteps(1), (0.0, 0.5, 1 - 1e-12, 1.0)):
        end = make(name, z)(problem.mean, z, grid)
        assert end.dtype == dtype
        assert all(state.isfinite().all() for state in [*problem.states, end])
        assert max(problem.times) < 1


@pytest.mark.parametrize(("name", "evaluations"), EVALUATIONS.items())
def test_number_of_evaluations(name: str, evaluations: int) -> None:
    problem, z = Gaussian(), starts()
    make(name, z)(problem.mean, z, uniform_timesteps(7))
    assert len(problem.times) == evaluations


def test_evaluations_of_dopri5_follow_the_tolerance() -> None:
    counts = []
    for tolerance in (1e-2, 1e-5):
        problem = Gaussian()
        dopri5(problem.mean, starts(), (0.0, 1.0), rtol=tolerance, atol=tolerance)
        assert (len(problem.times) - 3) % 6 == 0  # what its docstring says
        counts.append(len(problem.times))
    assert counts[0] < counts[1] < 400


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("start", [0.0, 0.3, 0.9, 0.999999])
def test_one_step_lands_on_the_posterior_mean(name: str, start: float) -> None:
    target = torch.randn(3)[None, :, None, None].expand(2, 3, 4, 4)
    z = torch.randn(2, 3, 4, 4)
    assert torch.equal(make(name, z)(lambda z, t: target, z, (start, 1.0)), target)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_last_step_lands_on_the_last_posterior_mean(name: str) -> None:
    means: list[Tensor] = []
    problem, z = Gaussian(), starts()

    def mean(z: Tensor, t: float) -> Tensor:
        means.append(problem.mean(z, t))
        return means[-1]

    assert torch.equal(make(name, z)(mean, z, uniform_timesteps(5)), means[-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_exact_posterior_of_a_tiny_data_set_leads_to_its_grids(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    codebook = torch.randn(8, 2, generator=generator)
    grids = torch.randint(8, (5, 3, 4), generator=generator)
    noise = torch.randn(64, 2, 3, 4, generator=generator)
    z = make(name, noise)(lambda z, t: exact_posterior_mean(z, t, grids, codebook), noise, uniform_timesteps(100))
    reached = nearest_codes(z, codebook)
    matches = (reached[:, None] == grids).flatten(2).all(-1)
    assert matches.any(1).all()
    assert matches.any(0).all()  # and every grid is reached from somewhere


@given(st.floats(0, 0.99), st.floats(0.001, 1))
def test_heun_stays_between_its_state_and_the_means(t: float, share: float) -> None:
    s = t + share * (1 - t)
    state, first, second = (torch.tensor([value], dtype=torch.float64) for value in (0.0, 1.0, 3.0))
    means = {t: first, s: second}
    if t < s < 1:
        reached = heun(lambda z, time: means[time], state, (t, s))
        assert 0 <= reached.item() <= 3


def test_stochastic_of_no_eta_is_euler() -> None:
    problem, z = Gaussian(), starts().float()
    expected = euler(problem.mean, z, uniform_timesteps(9))
    assert torch.equal(stochastic(problem.mean, z, uniform_timesteps(9), eta=0), expected)
    strong = stochastic(problem.mean, z, uniform_timesteps(9), fresh_noise(z.shape), eta=0.1)
    assert not torch.equal(strong, expected)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_keeps_the_marginals_of_the_path(eta: float) -> None:
    problem = Gaussian()
    z = torch.randn(20_000, dtype=torch.float64)
    solver = get_solver("stochastic", SolverOptions(eta=eta), fresh_noise(z.shape, z.dtype))
    end = solver(problem.mean, z, uniform_timesteps(300))
    for t, state in [*zip(problem.times, problem.states, strict=True), (1.0, end)]:
        variance = t**2 * problem.sigma**2 + (1 - t) ** 2
        assert state.var().item() == pytest.approx(variance, rel=0.06)  # 5 standard errors, and O(1/N)
        assert state.mean().item() == pytest.approx(t * problem.m, abs=0.04)
    correlation = torch.corrcoef(torch.stack([z, end]))[0, 1]
    assert (correlation < 0.05) if eta == 1 else (correlation > 0.5)


@pytest.mark.parametrize(("t", "s"), [(0.0, 0.4), (0.2, 0.3), (0.9, 0.99)])
def test_full_eta_draws_from_the_posterior_of_the_markov_chain(t: float, s: float) -> None:
    # With z_t = t/s · z_s + noise, z_s given z_t and the data z_1 is Gaussian by Bayes' rule.
    target, z = torch.tensor([1.3]), torch.tensor([0.4])
    before, gain = (1 - s) ** 2, t / s
    added = (1 - t) ** 2 - gain**2 * before
    variance = 1 / (1 / before + gain**2 / added)
    centre = variance * (s * target / before + gain * z / added)

    def step(noise: float) -> Tensor:
        return stochastic(lambda z, t: target, z, (t, s), lambda step: torch.tensor([noise]), eta=1)

    torch.testing.assert_close(step(0.0), centre)
    torch.testing.assert_close(step(1.0) - step(0.0), torch.tensor([math.sqrt(variance)]))


def test_stochastic_asks_for_the_noise_of_every_step_but_the_last() -> None:
    asked: list[int] = []

    def noise(step: int) -> Tensor:
        asked.append(step)
        return torch.randn(16, 1, 2, 2)

    stochastic(Gaussian().mean, starts(), uniform_timesteps(4), noise, eta=1)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_impossible_options_are_refused(eta: float) -> None:
    with pytest.raises(InputError, match="between 0"):
        SolverOptions(eta=eta)
    with pytest.raises(InputError, match="rtol"):
        SolverOptions(rtol=0)
    with pytest.raises(InputError, match="atol"):
        dopri5(Gaussian().mean, starts(), (0.0, 1.0), atol=-1.0)
    with pytest.raises(InputError, match="no noise function"):
        stochastic(Gaussian().mean, starts(), (0.0, 1.0), eta=0.5)


def test_unknown_solver_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'euler'"):
        get_solver("eulr")
    with pytest.raises(InputError, match="did you mean 'dpmpp_2m'"):
        get_solver("dpm++2m")
