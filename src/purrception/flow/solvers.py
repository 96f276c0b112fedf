"""Solvers of dz/dt = (μ(z, t) − z)/(1 − t) from noise at t = 0 to data at t = 1.

A solver is a plain function of a data prediction ``mean(z, t) → μ``, a start and an explicit time grid. The
caller's function sees every evaluation, so counting, recording and stopping are done there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from purrception.errors import unknown_name
from purrception.flow.paths import LinearPath
from purrception.flow.schedules import TimeGrid

MeanFunction = Callable[[Tensor, float], Tensor]
Solver = Callable[[MeanFunction, Tensor, TimeGrid], Tensor]


def euler(mean: MeanFunction, z: Tensor, grid: TimeGrid) -> Tensor:
    """First-order steps; one evaluation each, and the last lands on its posterior mean.

    Args:
        mean: data prediction; ``z`` ``[B, D, h, w]`` and ``t`` to the posterior mean, of z's shape.
        z: the state at ``grid[0]``.
        grid: increasing times, N + 1 points for N steps.

    Returns:
        The state at ``grid[-1]``.
    """
    path = LinearPath()
    for t, s in pairwise(grid):
        z = path.advance(z, mean(z, t), t, s)
    return z


SOLVERS: dict[str, Solver] = {"euler": euler}


def get_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        InputError: there is none; the nearest known name is suggested.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    return SOLVERS[name]
