"""``purrception compare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from purrception.cli.parsing import RecipeOptions, check_can_draw, configure, flat, names_in, say_report, target_of
from purrception.cli.verbs import Verb
from purrception.comparison.settings import Protocol, different
from purrception.experiment.config import RunConfig
from purrception.experiment.recipes import digits

OBJECTIVES = ("purrception", "cfm", "cfm-endpoint", "dfm")
"""What is compared unless other objectives are named."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(RecipeOptions):
    """What ``purrception compare`` takes."""

    objectives: tuple[str, ...] = OBJECTIVES
    """What is compared: objectives, each with any changes behind plus signs, such as purrception+evidence or
    purrception+geometric+no-z-loss."""
    protocol: Protocol = field(metadata=flat("entries"), default=Protocol((), 3, 7, 500, tune=False))
    out: str = ""
    """Folder. Default: comparisons/NAME. The same command goes on with an interrupted comparison, and with more
    objectives or seeds adds them to it."""
    recipe: RunConfig = field(default_factory=digits, metadata=flat(own="the recipe's"))


def compare(verb: Verb, arguments: list[str]) -> None:
    """Train each objective in the same way, and report."""
    target, rest = target_of(verb, arguments)
    options = configure(CompareOptions, verb, target, rest)
    from purrception.comparison.run import compare as run_comparison

    check_can_draw()
    protocol = replace(options.protocol, entries=tuple(different(names_in(options.objectives))))
    folder = Path(options.out or f"comparisons/{options.recipe.name}")
    report = run_comparison(options.recipe, protocol, folder)
    say_report(report.read_text(encoding="utf-8"), report, "At the end of training")
