"""``purrception prepare``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from purrception.cli.parsing import flat, parse, source_of, target_of
from purrception.cli.verbs import Verb
from purrception.data.config import DataConfig
from purrception.experiment.settings import PrepareOptions

OWN = DataConfig(image_size=256, test_fraction=0.02)
"""How images are taken that belong to no recipe."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``purrception prepare`` takes."""

    preparation: PrepareOptions = field(default_factory=PrepareOptions, metadata=flat())
    images: DataConfig = field(
        default=OWN,
        metadata=flat("source", "tokens", "channels", own="the recipe's; else 256 pixels, 2 % held out"),
    )


def prepare(verb: Verb, arguments: list[str]) -> None:
    """Encode images as token shards."""
    target, rest = target_of(verb, arguments)
    images = source_of(target).data if target else OWN
    if images.image_size == 0:  # of no recipe
        images = replace(OWN, source=images.source, root=images.root)
    options = parse(Options, verb, rest, Options(images=images))
    from purrception.experiment.prepare import prepare as prepare_tokens

    if report := prepare_tokens(options.images, options.preparation):
        print(report)
