"""Objectives: each owns its path, its loss and its inference conversion.

A new objective is one module here and one line in ``OBJECTIVES``.
"""

from __future__ import annotations

from purrception.flow.objectives.base import Objective
from purrception.flow.objectives.cfm import CFM, CFMEndpoint
from purrception.flow.objectives.dfm import DFM
from purrception.flow.objectives.purrception import Purrception
from purrception.flow.settings import ObjectiveConfig
from purrception.utils.errors import unknown_name

OBJECTIVES: dict[str, type[Objective]] = {
    "purrception": Purrception,
    "cfm": CFM,
    "cfm-endpoint": CFMEndpoint,
    "dfm": DFM,
}


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective that ``config`` names.

    Raises:
        InputError: there is none of that name; the nearest known name is suggested.
    """
    if config.name not in OBJECTIVES:
        raise unknown_name("objective", config.name, OBJECTIVES)
    return OBJECTIVES[config.name](config)
