"""The one error that a person is meant to read, and the search for the name they meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that was given cannot be used.

    The message says what was given, what is accepted and what to do; the command line prints it as one
    line and exits with status 2.
    """


def unknown_name(kind: str, given: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not known, with the nearest known one.

    Args:
        kind: what the name stands for, for example ``"solver"``.
        given: the name as it was given.
        known: the names that are accepted.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(names) if len(names) <= 24 else f"{len(names)} names, see --help"
    return InputError(f"unknown {kind} {given!r}: {hint}known: {listed}")
