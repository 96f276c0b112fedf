"""Time: grids of N steps, N + 1 points from 0 to 1, the temperature; and the times of training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from purrception.utils.errors import InputError, unknown_name

TimeGrid = tuple[float, ...]


def uniform_grid(steps: int) -> TimeGrid:
    """The points 0, 1/N, …, 1.

    Raises:
        InputError: fewer than one step.
    """
    return _warped(steps, lambda x: x)


def cosine_grid(steps: int) -> TimeGrid:
    """t = (1 − cos πx)/2 over uniform x: short steps near noise and near data, long ones between.

    Raises:
        InputError: fewer than one step.
    """
    return _warped(steps, lambda x: math.sin(math.pi * x / 2) ** 2)


def shifted_grid(steps: int, shift: float = 3.0) -> TimeGrid:
    """t = x/(shift − (shift − 1) x) over uniform x: log(t/(1 − t)) is lowered by log shift.

    Above 1 the shift moves points towards noise (t = 0), as for larger images; below 1 towards data. It is
    the shift of Stable Diffusion 3 (arXiv 2403.03206, equation 23, for the noise level 1 − t).

    Raises:
        InputError: fewer than one step, or a shift that is not positive.
    """
    if not 0 < shift < math.inf:
        raise InputError(f"the shift of a time grid is a positive number, 1 for none; given {shift}")
    return _warped(steps, lambda x: x / (shift - (shift - 1) * x))


def log_snr_grid(steps: int, low: float = -5.0, high: float = 5.0) -> TimeGrid:
    """Points 1 to N − 1 uniform in λ = log(t/(1 − t)) from ``low`` to ``high``, and exact ends 0 and 1.

    A single inner point stands in the middle.

    Raises:
        InputError: fewer than one step, or ends that do not increase.
    """
    if not -math.inf < low < high < math.inf:
        raise InputError(f"a log-SNR grid goes from a lower to a higher end; given {low} to {high}")

    def time(x: float) -> float:
        place = (x * steps - 1) / (steps - 2) if steps > 2 else 0.5
        return 1 / (1 + math.exp(-(low + place * (high - low))))

    return _warped(steps, time)


def _warped(steps: int, warp: Callable[[float], float]) -> TimeGrid:
    if steps < 1:
        raise InputError(f"sampling needs at least 1 step; given {steps}")
    grid = (0.0, *(warp(n / steps) for n in range(1, steps)), 1.0)
    if not all(t < s for t, s in pairwise(grid)):
        raise InputError(f"points of this grid of {steps} steps coincide: use fewer steps or milder settings")
    return grid


GRIDS: dict[str, Callable[[int], TimeGrid]] = {
    "uniform": uniform_grid,
    "cosine": cosine_grid,
    "shifted": shifted_grid,
    "log_snr": log_snr_grid,
}


def get_grid(name: str, steps: int) -> TimeGrid:
    """N + 1 increasing times from exactly 0 to exactly 1.

    Raises:
        InputError: no grid has that name (the nearest known name is suggested), or fewer than one step.
    """
    if name not in GRIDS:
        raise unknown_name("time grid", name, GRIDS)
    return GRIDS[name](steps)


@dataclass(frozen=True)
class TimeSampling:
    """The times of training, made from uniform numbers: t uniform on [low, high).

    Raises:
        InputError: the range is empty or leaves [0, 1].
    """

    low: float = 0.0
    high: float = 1.0
    bfloat16: bool = False
    """Draw in bfloat16 as a GPU does: 128 values from a power of two to the next, and what rounds to 1 is 0."""

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not 0 <= self.low < self.high <= 1:
            raise InputError(f"training times lie in a range within 0 to 1; given {self.low} to {self.high}")

    def __call__(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), float32 ``[B]`` → times, float32 ``[B]``."""
        if self.bfloat16:
            uniform = uniform.bfloat16()
            uniform = uniform.where(uniform < 1, 0)
        return ((self.high - self.low) * uniform + self.low).float()


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` when it is positive and finite, else raise :class:`InputError`."""
    if not 0 < temperature < math.inf:
        raise InputError(f"a temperature is a positive number; given {temperature}")
    return temperature


@dataclass(frozen=True)
class TemperatureSchedule:
    """τ over t: through points (t, τ), held constant before the first and after the last.

    Raises:
        InputError: no points, times outside [0, 1] or not increasing, a τ that is not positive and finite.
    """

    points: tuple[tuple[float, float], ...]
    easing: Literal["linear", "cosine"] = "linear"
    """How τ goes from point to point: straight, or along half a cosine, flat at both points."""

    def __post_init__(self) -> None:
        """Refuse a schedule that is not a positive function of time."""
        if self.easing not in ("linear", "cosine"):
            raise unknown_name("easing", self.easing, ("linear", "cosine"))
        times = [t for t, _ in self.points]
        inside = bool(times) and all(0 <= t <= 1 for t in times)
        if not inside or any(s <= t for t, s in pairwise(times)):
            raise InputError(f"times of a temperature schedule increase within 0 to 1; given {times}")
        for _, temperature in self.points:
            check_temperature(temperature)

    def __call__(self, t: float) -> float:
        """τ at ``t``."""
        after = bisect_right(self.points, t, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (start, first), (end, last) = self.points[after - 1], self.points[after]
        share = (t - start) / (end - start)
        if self.easing == "cosine":
            share = math.sin(math.pi * share / 2) ** 2
        return first + share * (last - first)

    @classmethod
    def parse(cls, text: str | float) -> TemperatureSchedule:
        """The schedule that ``text`` describes.

        ``0.9`` or ``constant:0.9`` · ``linear:1.0:0.7`` and ``cosine:1.0:0.7``, from t = 0 to t = 1 ·
        ``piecewise:0=1.0,0.5=0.8,1=0.6``, straight between the points.

        Raises:
            InputError: another kind (the nearest known one is suggested), a piece that cannot be read, or a
                schedule that reaches a τ that is not positive and finite.
        """
        kind, _, rest = str(text).partition(":")
        if not rest and _is_number(kind):
            kind, rest = "constant", kind
        if kind not in _FORMS:
            raise unknown_name("temperature schedule", kind, _FORMS)
        pieces = _numbers(rest, kind, text)
        if kind == "piecewise":
            return cls(tuple((t, temperature) for t, temperature in pieces))
        values = [value for (value,) in pieces]
        easing: Literal["linear", "cosine"] = "cosine" if kind == "cosine" else "linear"
        return cls(tuple((float(n), value) for n, value in enumerate(values)), easing)


_FORMS = {
    "constant": "constant:0.9",
    "linear": "linear:1.0:0.7",
    "cosine": "cosine:1.0:0.7",
    "piecewise": "piecewise:0=1.0,0.5=0.8,1=0.6",
}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(rest: str, kind: str, text: str | float) -> list[list[float]]:
    """The numbers of each piece: pairs for ``piecewise``, else single ones, as many as the kind takes."""
    pieces = [piece.split("=") for piece in rest.split("," if kind == "piecewise" else ":")]
    width = 2 if kind == "piecewise" else 1
    expected = {"constant": 1, "piecewise": len(pieces)}.get(kind, 2)
    readable = all(len(piece) == width and all(map(_is_number, piece)) for piece in pieces)
    if not readable or len(pieces) != expected:
        raise InputError(f"cannot read the temperature schedule {text!r}: write it like {_FORMS[kind]!r}")
    return [[float(number) for number in piece] for piece in pieces]
