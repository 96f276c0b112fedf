"""``purrception studio``. What is heavy is imported when it is needed."""

from __future__ import annotations

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb


def studio(verb: Verb, arguments: list[str]) -> None:
    """Open a page in the browser around a run."""
    target, rest = target_of(verb, arguments)
    from purrception.studio import StudioOptions, open_studio

    open_studio(target, parse(StudioOptions, verb, rest))
