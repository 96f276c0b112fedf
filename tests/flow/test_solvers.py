"""Solvers on posteriors known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from purrception.errors import InputError
from purrception.flow import euler, get_solver, nearest_codes, uniform_grid

from .oracle import exact_posterior_mean


@pytest.mark.parametrize("start", [0.0, 0.3, 0.9, 0.999999])
def test_one_step_under_a_one_hot_posterior_lands_on_the_codeword(start: float) -> None:
    codeword = torch.randn(3)
    target = codeword[None, :, None, None].expand(2, 3, 4, 4)
    z = euler(lambda z, t: target, torch.randn(2, 3, 4, 4), (start, 1.0))
    assert torch.equal(z, target)


def test_every_state_is_finite_from_zero_to_one() -> None:
    seen: list[Tensor] = []

    def mean(z: Tensor, t: float) -> Tensor:
        seen.append(z)
        return torch.zeros_like(z)

    end = euler(mean, torch.randn(1, 2, 3, 3), uniform_grid(7))
    assert len(seen) == 7  # N steps are N evaluations, not N − 1
    assert all(z.isfinite().all() for z in [*seen, end])


def test_euler_matches_the_closed_form_of_a_gaussian() -> None:
    # Data N(0, σ²): μ(z, t) = t σ² z / (t² σ² + (1 − t)²), and the flow maps z_0 to σ z_0.
    sigma = 0.5

    def mean(z: Tensor, t: float) -> Tensor:
        return t * sigma**2 * z / (t**2 * sigma**2 + (1 - t) ** 2)

    z_0 = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    errors = [(euler(mean, z_0, uniform_grid(n)) - sigma * z_0).abs().max().item() for n in (100, 200)]
    assert errors[0] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


def test_exact_posterior_of_a_tiny_data_set_leads_to_its_grids() -> None:
    generator = torch.Generator().manual_seed(3)
    codebook = torch.randn(8, 2, generator=generator)
    grids = torch.randint(8, (5, 3, 4), generator=generator)
    noise = torch.randn(64, 2, 3, 4, generator=generator)
    z = euler(lambda z, t: exact_posterior_mean(z, t, grids, codebook), noise, uniform_grid(100))
    reached = nearest_codes(z, codebook)
    matches = (reached[:, None] == grids).flatten(2).all(-1)
    assert matches.any(1).all()
    assert matches.any(0).all()  # and every grid is reached from somewhere


def test_grid_has_n_intervals_and_refuses_none() -> None:
    grid = uniform_grid(4)
    assert grid == (0.0, 0.25, 0.5, 0.75, 1.0)
    with pytest.raises(InputError, match="at least 1 step"):
        uniform_grid(0)


def test_unknown_solver_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'euler'"):
        get_solver("eulr")
