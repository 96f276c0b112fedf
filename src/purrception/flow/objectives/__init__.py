"""Objectives: each owns its path, its loss and its inference conversion.

A new objective is one module here and one line in ``OBJECTIVES``.
"""

from __future__ import annotations

from purrception.errors import unknown_name
from purrception.flow.objectives.base import Losses, Network, Objective, ObjectiveConfig, TrainingBatch
from purrception.flow.objectives.purrception import Purrception

OBJECTIVES: dict[str, type[Objective]] = {"purrception": Purrception}


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective that ``config`` names.

    Raises:
        InputError: there is none of that name; the nearest known name is suggested.
    """
    if config.name not in OBJECTIVES:
        raise unknown_name("objective", config.name, OBJECTIVES)
    return OBJECTIVES[config.name](config)


__all__ = [
    "OBJECTIVES",
    "Losses",
    "Network",
    "Objective",
    "ObjectiveConfig",
    "Purrception",
    "TrainingBatch",
    "build_objective",
]
