"""Explicit time grids: N steps are N intervals and N + 1 points, from 0 to 1."""

from __future__ import annotations

from purrception.errors import InputError

TimeGrid = tuple[float, ...]


def uniform_grid(steps: int) -> TimeGrid:
    """The points 0, 1/N, …, 1.

    Raises:
        InputError: fewer than one step.
    """
    if steps < 1:
        raise InputError(f"sampling needs at least 1 step; given {steps}")
    return tuple(n / steps for n in range(steps + 1))
