"""Variational flow matching as pure tensors and callables: no network, no files.

paths · posterior operations · guidance · time grids · solvers · objectives
"""

from purrception.flow.guidance import Guidance
from purrception.flow.objectives import (
    OBJECTIVES,
    Losses,
    Objective,
    ObjectiveConfig,
    TrainingBatch,
    build_objective,
)
from purrception.flow.objectives.base import SiteLosses
from purrception.flow.paths import LinearPath, PathSample
from purrception.flow.posterior import Posterior, check_temperature, nearest_codes, posterior_from_logits
from purrception.flow.schedules import TimeGrid, uniform_grid
from purrception.flow.solvers import (
    SOLVERS,
    SolverOptions,
    dopri5,
    dpmpp_2m,
    euler,
    get_solver,
    heun,
    midpoint,
    stochastic,
)

__all__ = [
    "OBJECTIVES",
    "SOLVERS",
    "Guidance",
    "LinearPath",
    "Losses",
    "Objective",
    "ObjectiveConfig",
    "PathSample",
    "Posterior",
    "SiteLosses",
    "SolverOptions",
    "TimeGrid",
    "TrainingBatch",
    "build_objective",
    "check_temperature",
    "dopri5",
    "dpmpp_2m",
    "euler",
    "get_solver",
    "heun",
    "midpoint",
    "nearest_codes",
    "posterior_from_logits",
    "stochastic",
    "uniform_grid",
]
