"""``purrception prepare`` on the command line."""

from __future__ import annotations

from purrception.cli.parsing import parse, target_of


def prepare(arguments: list[str]) -> None:
    """``purrception prepare``: images → token shards."""
    from purrception.cli import VERBS

    target, rest = target_of(VERBS["prepare"], arguments)
    from purrception.experiment.prepare import PrepareOptions
    from purrception.experiment.prepare import prepare as prepare_tokens

    if report := prepare_tokens(target, parse(PrepareOptions, VERBS["prepare"], rest)):
        print(report)
