"""The entries of a comparison: an objective, with changes to the recipe behind plus signs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from purrception.experiment.config import RunConfig
from purrception.flow import OBJECTIVES
from purrception.models import CATEGORICAL_HEADS
from purrception.utils.errors import InputError, unknown_name

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "evidence": ("head", {"evidence": True}),
    "no-z-loss": ("objective", {"z_loss": 0.0}),
    **{kind: ("head", {"kind": kind}) for kind in CATEGORICAL_HEADS},
}
"""Changes by name: the section of the recipe, and its new values."""


def configure(recipe: RunConfig, entry: str) -> RunConfig:
    """The recipe under ``entry``: an objective, and changes behind plus signs.

    ``"purrception"`` is the recipe's plain form: the paper's head without evidence. ``"purrception+evidence"``,
    ``"purrception+geometric+evidence"`` and ``"dfm+factored"`` are others.

    Raises:
        InputError: an unknown objective or change, or one that the objective cannot have.
    """
    name, *changes = entry.split("+")
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    plain = replace(recipe.head, kind="linear", evidence=False)
    config = replace(recipe, objective=replace(recipe.objective, name=name), head=plain)
    for change in changes:
        if change not in CHANGES:
            raise unknown_name("change", change, CHANGES)
        if OBJECTIVES[name].head_family == "regression":
            raise InputError(f"{change!r} changes a posterior, and {name!r} has none: leave it out")
        section, values = CHANGES[change]
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    OBJECTIVES[name].check_evidence(config.head.evidence)
    return config
