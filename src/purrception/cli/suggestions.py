"""What an option that does not exist was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from purrception.cli.verbs import VERBS, Verb
from purrception.utils.errors import InputError

OTHER_WORDS = {
    "cfg": "guidance",
    "cfg-scale": "guidance",
    "guidance-scale": "guidance",
    "epochs": "steps",
    "max-steps": "steps",
    "iterations": "steps",
    "output": "out",
    "output-dir": "out",
    "num-images": "num",
    "n": "num",
    "temp": "temperature",
    "size": "image-size",
    "resolution": "image-size",
}
"""What other programs call our options."""


def unknown_option(verb: Verb, given: str, known: list[str]) -> InputError:
    """The error for a word that is no option of a command.

    It suggests, in this order: the option that is spelt almost so; those with the same last word (``--steps``:
    ``--training.steps``), with these initials (``--lr``: ``--training.learning-rate``) or with our word for what
    other programs call so; one of similar spelling; and the commands that have such an option.

    Args:
        verb: the command.
        given: the word as it was given.
        known: the options that the command has.
    """
    if not given.startswith("-"):
        usage = f"purrception {verb.name} {verb.usage}".rstrip()
        return InputError(f"cannot place {given!r}: usage: {usage} [OPTIONS]; for example: {verb.example}")
    meant = _similar(given, known, 0.9) or by_meaning(given, known) or _similar(given, known, 0.8)
    if not meant and (elsewhere := _verbs_with(given)):
        return InputError(f"unknown option {given!r}: {verb.name} does not have it, but {elsewhere} does")
    meant = meant or _similar(given, known, 0.5)
    hint = f"did you mean {' or '.join(map(repr, meant))}? " if meant else ""
    return InputError(f"unknown option {given!r}: {hint}purrception {verb.name} --help lists all {len(known)}")


def by_meaning(given: str, known: Iterable[str]) -> list[str]:
    """Up to three options with the same last word or its initials, or that other programs call so."""
    *path, last = given.lstrip("-").split(".")
    meant = {last, OTHER_WORDS.get(last, last)}

    def matches(option: str) -> bool:
        *parents, name = option.lstrip("-").split(".")
        initials = "".join(word[0] for word in name.split("-"))
        within = all(part in parents for part in path)
        return within and (name in meant or (len(last) > 1 and initials == last))

    found = [option for option in known if matches(option)] or [
        option for option in known if option.lstrip("-").split(".")[-1] in meant
    ]
    return sorted(found, key=lambda option: option.count("."))[:3]


def _similar(given: str, known: list[str], cutoff: float) -> list[str]:
    return difflib.get_close_matches(given, known, n=1, cutoff=cutoff)


def _verbs_with(given: str) -> str:
    """The commands that have an option of that name."""
    from purrception.cli.options import options_of

    names = [name for name, verb in VERBS.items() if given in {option.name for option in options_of(verb.options)}]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
