"""``purrception plan``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import configure, parse_known, target_of
from purrception.cli.verbs import Verb


def plan(verb: Verb, arguments: list[str]) -> None:
    """Estimate what a run will cost."""
    from purrception.experiment.plan import PlanOptions
    from purrception.experiment.plan import plan as make_plan

    target, rest = target_of(verb, arguments)
    options, rest = parse_known(PlanOptions, verb, rest)
    made = make_plan(configure(verb, target, rest, dry=True), options)
    print(made.json() if options.json else made.text())
