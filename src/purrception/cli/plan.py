"""``purrception plan``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from purrception.cli.parsing import RecipeOptions, configure, flat, target_of
from purrception.cli.verbs import Verb
from purrception.experiment import settings
from purrception.experiment.config import RunConfig
from purrception.experiment.recipes import digits


@dataclass(frozen=True, kw_only=True)
class PlanOptions(RecipeOptions):
    """What ``purrception plan`` takes."""

    machine: settings.PlanOptions = field(default_factory=settings.PlanOptions, metadata=flat())
    recipe: RunConfig = field(default_factory=digits, metadata=flat(own="the recipe's"))

    @property
    def needs_images(self) -> bool:
        """A plan is also made for images that are elsewhere."""
        return False


def plan(verb: Verb, arguments: list[str]) -> None:
    """Estimate what a run will cost."""
    options = configure(PlanOptions, verb, *target_of(verb, arguments))
    from purrception.experiment.plan import plan as make_plan

    made = make_plan(options.recipe, options.machine)
    print(made.json() if options.machine.json else made.text())
