"""``purrception compare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from purrception.cli.parsing import configure, flat, parse_known, target_of
from purrception.cli.verbs import Verb
from purrception.comparison.run import Protocol


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What ``purrception compare`` takes besides the recipe's own options."""

    objectives: str = "purrception,cfm,cfm-endpoint,dfm"
    """What is compared, separated by commas: objectives, each with any changes behind plus signs, such as
    purrception+evidence or purrception+geometric+no-z-loss."""
    protocol: Protocol = field(metadata=flat("entries"), default=Protocol((), 3, 7, 500, tune=False))
    out: str = ""
    """Folder; default: comparisons/NAME. The same command goes on with an interrupted comparison, and with more
    objectives or seeds adds them to it."""


def compare(verb: Verb, arguments: list[str]) -> None:
    """Train each objective in the same way, and report."""
    target, rest = target_of(verb, arguments)
    from purrception.comparison.entries import parse_entries
    from purrception.comparison.run import compare as run_comparison
    from purrception.utils.packages import require
    from purrception.utils.terminal import for_terminal

    require("matplotlib", "the picture of a report")
    options, rest = parse_known(CompareOptions, verb, rest)
    recipe = configure(verb, target, rest)
    entries = tuple(parse_entries(options.objectives))
    protocol = replace(options.protocol, entries=entries)
    folder = Path(options.out or f"comparisons/{recipe.name}")
    report = run_comparison(recipe, protocol, folder)
    print(for_terminal(report.read_text(encoding="utf-8"), "At the end of training") + f"\n\nreport: {report}")
