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
from purrception.flow.posterior import (
    LAST_STEPS,
    Posterior,
    Truncation,
    draw_codes,
    get_last_step,
    nearest_codes,
    posterior_from_logits,
    truncate,
)
from purrception.flow.schedules import (
    GRIDS,
    TemperatureSchedule,
    TimeGrid,
    check_temperature,
    cosine_grid,
    get_grid,
    log_snr_grid,
    shifted_grid,
    uniform_grid,
)
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
    "GRIDS",
    "LAST_STEPS",
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
    "TemperatureSchedule",
    "TimeGrid",
    "TrainingBatch",
    "Truncation",
    "build_objective",
    "check_temperature",
    "cosine_grid",
    "dopri5",
    "dpmpp_2m",
    "draw_codes",
    "euler",
    "get_grid",
    "get_last_step",
    "get_solver",
    "heun",
    "log_snr_grid",
    "midpoint",
    "nearest_codes",
    "posterior_from_logits",
    "shifted_grid",
    "stochastic",
    "truncate",
    "uniform_grid",
]
