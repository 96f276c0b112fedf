"""Variational flow matching as pure tensors and callables: no network, no files.

paths · evidence · posterior operations · guidance · time grids · solvers · objectives
"""

from purrception.flow.evidence import Evidence, evidence_columns
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
from purrception.flow.solvers import SOLVERS, euler, get_solver

__all__ = [
    "OBJECTIVES",
    "SOLVERS",
    "Evidence",
    "Guidance",
    "LinearPath",
    "Losses",
    "Objective",
    "ObjectiveConfig",
    "PathSample",
    "Posterior",
    "SiteLosses",
    "TimeGrid",
    "TrainingBatch",
    "build_objective",
    "check_temperature",
    "euler",
    "evidence_columns",
    "get_solver",
    "nearest_codes",
    "posterior_from_logits",
    "uniform_grid",
]
