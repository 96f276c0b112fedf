"""``purrception prepare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import check_images, parse, target_of
from purrception.cli.verbs import Verb
from purrception.experiment.settings import PrepareOptions


def prepare(verb: Verb, arguments: list[str]) -> None:
    """Encode images as token shards."""
    target, rest = target_of(verb, arguments)
    options = parse(PrepareOptions, verb, rest)
    check_images(target)
    from purrception.experiment.prepare import prepare as prepare_tokens

    if report := prepare_tokens(target, options):
        print(report)
