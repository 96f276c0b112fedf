"""``purrception compare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import configure, parse_known, target_of
from purrception.cli.verbs import Verb


@dataclass(frozen=True)
class CompareOptions:
    """What ``purrception compare`` takes besides the recipe's own options."""

    objectives: str = "purrception,cfm,cfm-endpoint,dfm"
    """What is compared, separated by commas: objectives, each with any changes behind plus signs, such as
    purrception+evidence or purrception+geometric+no-z-loss."""
    seeds: int = 3
    """Number of trainings of each, with seeds that follow the recipe's."""
    points: int = 7
    """Number of measurements of each training, at steps √2 apart, the last at the end."""
    num: int = 500
    """Number of images generated per measurement."""
    tune: bool = False
    """At the end, also give each objective the best of a few sampling settings."""
    out: str = ""
    """Folder; default: comparisons/NAME. The same command goes on with an interrupted comparison, and with more
    objectives or seeds adds them to it."""


def compare(verb: Verb, arguments: list[str]) -> None:
    """Train each objective in the same way, and report."""
    target, rest = target_of(verb, arguments)
    from purrception.comparison.entries import parse_entries
    from purrception.comparison.run import Protocol
    from purrception.comparison.run import compare as run_comparison

    options, rest = parse_known(CompareOptions, verb, rest)
    recipe = configure(verb, target, rest)
    entries = tuple(parse_entries(options.objectives))
    protocol = Protocol(entries, options.seeds, options.points, options.num, options.tune)
    folder = Path(options.out or f"comparisons/{recipe.name}")
    print(f"report: {run_comparison(recipe, protocol, folder)}")
