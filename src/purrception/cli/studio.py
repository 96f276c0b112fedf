"""``purrception studio RUN``. Heavy imports wait until the verb needs them."""

from __future__ import annotations

from purrception.cli.parsing import Verb, parse, say, target_of


def studio(arguments: list[str]) -> None:
    """``purrception studio``: a page in the browser around a run."""
    target, rest = target_of(STUDIO, arguments)
    from purrception.studio import StudioOptions, open_studio

    options = parse(StudioOptions, STUDIO, rest)
    open_studio(target, options, say)


STUDIO = Verb(
    studio,
    "studio RUN_OR_PIPELINE [--key value …]",
    "A page in the browser, on this machine alone: generate, look inside, edit, compare, read reports.",
    "purrception studio runs/digits",
)
