"""Time grids and temperature schedules."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purrception.flow import (
    SPACINGS,
    TemperatureSchedule,
    cosine_timesteps,
    get_timesteps,
    log_snr_timesteps,
    shifted_timesteps,
    uniform_timesteps,
)
from purrception.utils.errors import InputError


def log_snr(t: float) -> float:
    return math.log(t / (1 - t))


@given(st.sampled_from(sorted(SPACINGS)), st.integers(1, 1500))
def test_a_grid_of_n_steps_has_n_plus_one_increasing_points_from_0_to_1(name: str, steps: int) -> None:
    grid = get_timesteps(name, steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(t < s for t, s in pairwise(grid))
    assert all(type(t) is float for t in grid)


@given(st.floats(0.01, 100), st.integers(2, 200))
def test_shift_lowers_the_log_signal_to_noise_ratio(shift: float, steps: int) -> None:
    for plain, shifted in zip(uniform_timesteps(steps)[1:-1], shifted_timesteps(steps, shift)[1:-1], strict=True):
        assert log_snr(shifted) == pytest.approx(log_snr(plain) - math.log(shift), abs=1e-6)


def test_values_of_the_grids() -> None:
    assert uniform_timesteps(4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert shifted_timesteps(4, 1.0) == uniform_timesteps(4)
    assert shifted_timesteps(2, 3.0)[1] == pytest.approx(0.25)  # above 1: towards noise
    assert cosine_timesteps(4)[1:4] == pytest.approx([(1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2])
    assert [log_snr(t) for t in log_snr_timesteps(6, -2, 4)[1:-1]] == pytest.approx([-2, -0.5, 1, 2.5, 4])
    assert log_snr_timesteps(2, -2, 4)[1] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("name", SPACINGS)
def test_no_steps_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="at least 1 step; given 0"):
        get_timesteps(name, 0)


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        get_timesteps("unifrom", 3)
    for shift in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="positive"):
            shifted_timesteps(3, shift)
    with pytest.raises(InputError, match="coincide"):
        shifted_timesteps(3, 1e-300)
    with pytest.raises(InputError, match="lower to a higher"):
        log_snr_timesteps(3, 2.0, 2.0)


@pytest.mark.parametrize(
    ("text", "values"),  # at t = 0, 0.25, 0.5, 1
    [
        ("0.9", (0.9, 0.9, 0.9, 0.9)),
        ("constant:0.9", (0.9, 0.9, 0.9, 0.9)),
        (0.9, (0.9, 0.9, 0.9, 0.9)),
        (1, (1, 1, 1, 1)),
        ("linear:1.0:0.6", (1.0, 0.9, 0.8, 0.6)),
        ("cosine:1.0:0.6", (1.0, 0.6 + 0.2 * (1 + math.sqrt(0.5)), 0.8, 0.6)),
        ("piecewise:0=1.0,0.5=0.8,1=0.6", (1.0, 0.9, 0.8, 0.6)),
        ("piecewise:0.25=0.5,0.5=1.5", (0.5, 0.5, 1.5, 1.5)),
    ],
)
def test_values_of_temperature_schedules(text: str | float, values: tuple[float, ...]) -> None:
    schedule = TemperatureSchedule.parse(text)
    assert [schedule(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(values)


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_a_schedule_stays_between_its_ends(first: float, last: float, t: float, kind: str) -> None:
    value = TemperatureSchedule.parse(f"{kind}:{first!r}:{last!r}")(t)
    assert min(first, last) * (1 - 1e-9) <= value <= max(first, last) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("liner:1:0.5", "did you mean 'linear'"),
        ("cosin", "did you mean 'cosine'"),
        ("", "known: constant, cosine, linear, piecewise"),
        ("linear", r"write it like 'linear:1\.0:0\.7'"),
        ("linear:1.0", "write it like"),
        ("linear:1:2:3", "write it like"),
        ("constant:hot", "write it like"),
        ("piecewise:0=1,0.5", "write it like"),
        ("piecewise:0=1=2", "write it like"),
        ("piecewise:", "write it like"),
        ("piecewise:0=1,0=2", "increase"),
        ("piecewise:0.5=1,0.2=2", "increase"),
        ("piecewise:0=1,2=1", "within 0 to 1"),
        ("piecewise:nan=1", "within 0 to 1"),
        ("0", "positive"),
        ("-1", "positive"),
        ("nan", "positive"),
        ("linear:1:0", "positive"),
        ("cosine:inf:1", "positive"),
        ("piecewise:0=1,1=-1", "positive"),
    ],
)
def test_schedules_that_cannot_be_used_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TemperatureSchedule.parse(text)
    assert "\n" not in str(caught.value)


def test_schedules_built_in_code_are_held_to_the_same() -> None:
    with pytest.raises(InputError, match="increase"):
        TemperatureSchedule(())
    with pytest.raises(InputError, match="unknown easing"):
        TemperatureSchedule(((0.0, 1.0),), "cubic")  # type: ignore[arg-type]
