"""``purrception prepare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb


def prepare(verb: Verb, arguments: list[str]) -> None:
    """Encode images as token shards."""
    target, rest = target_of(verb, arguments)
    from purrception.experiment.prepare import prepare as prepare_tokens
    from purrception.experiment.settings import PrepareOptions

    if report := prepare_tokens(target, parse(PrepareOptions, verb, rest)):
        print(report)
