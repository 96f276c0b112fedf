"""The linear path and its exact Euler step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purrception.flow import LinearPath

PATH = LinearPath()
TIMES = st.floats(0, 1, exclude_max=True)


def test_ends_of_the_path_are_noise_and_data() -> None:
    z_1, z_0 = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(PATH.sample(z_1, z_0, torch.zeros(2)).z_t, z_0)
    assert torch.equal(PATH.sample(z_1, z_0, torch.ones(2)).z_t, z_1)


def test_velocity_is_the_derivative_of_the_path() -> None:
    z_1, z_0 = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    a, b = (PATH.sample(z_1, z_0, torch.tensor([t])) for t in (0.25, 0.5))
    torch.testing.assert_close((b.z_t - a.z_t) / 0.25, a.velocity)
    torch.testing.assert_close(PATH.velocity(z_1, a.z_t, 0.25), a.velocity)


def test_path_is_float32_whatever_comes_in() -> None:
    sample = PATH.sample(torch.randn(1, 2, 2, 2).bfloat16(), torch.randn(1, 2, 2, 2), torch.rand(1).double())
    assert sample.z_t.dtype == sample.t.dtype == torch.float32


@given(TIMES)
def test_step_to_one_lands_on_the_mean_exactly(t: float) -> None:
    mean, z = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    assert torch.equal(PATH.advance(z, mean, t, 1.0), mean)


@given(TIMES, TIMES)
def test_step_equals_euler_on_the_velocity(t: float, s: float) -> None:
    t, s = min(t, s), max(t, s)
    if s - t < 1e-3 or t > 0.99:
        return
    mean, z = torch.randn(1, 2, 3, 3).double(), torch.randn(1, 2, 3, 3).double()
    torch.testing.assert_close(PATH.advance(z, mean, t, s), z + (s - t) * PATH.velocity(mean, z, t))


@pytest.mark.parametrize(("t", "s"), [(0.5, 0.5), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.1), (1.0, 1.0)])
def test_steps_that_do_not_go_forward_are_refused(t: float, s: float) -> None:
    with pytest.raises(ValueError, match="forward"):
        PATH.advance(torch.zeros(1), torch.zeros(1), t, s)


def test_velocity_at_one_is_refused() -> None:
    with pytest.raises(ValueError, match="t < 1"):
        PATH.velocity(torch.zeros(1), torch.zeros(1), 1.0)
