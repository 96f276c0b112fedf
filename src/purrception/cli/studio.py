"""``purrception studio``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb
from purrception.studio.settings import StudioOptions
from purrception.training import check_target


def studio(verb: Verb, arguments: list[str]) -> None:
    """Open a page in the browser around a run."""
    target, rest = target_of(verb, arguments)
    options = parse(StudioOptions, verb, rest)
    check_target(target)
    from purrception.studio import open_studio

    open_studio(target, options)
