"""The one error that a person is meant to read, those of the system in words, and what is no name or number."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable
from typing import Any

LARGEST = 2**63 - 1
"""Whole number that a setting may be where nothing smaller bounds it."""


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


def in_words(error: BaseException) -> str:
    """What an error says, in one line; the system's without a number: ``/nowhere: No such file or directory``."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        files = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
        said = ": ".join([*map(os.fsdecode, files), error.strerror])
    return " ".join(said.split())


def check_numbers(settings: Any, prefix: str = "", **at_most: float) -> None:
    """Refuse settings that are not finite, or so large that nothing could be made of them.

    A bound is generous: it keeps a number that is mistyped, or comes with somebody's file, from asking for more
    memory or time than there is before anything can be said of it.

    Args:
        settings: a dataclass; those within it are checked as well.
        prefix: put before each name.
        at_most: the largest number by name, for single numbers and for each of several.

    Raises:
        InputError: it names the setting.
    """
    for item in dataclasses.fields(settings):
        value, name = getattr(settings, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{name} is a finite number; given {number}")
            limit = at_most.get(item.name, LARGEST)
            if isinstance(number, int | float) and abs(number) > limit:
                raise InputError(f"{name} is at most {limit}; given {_short(number)}")


def _short(number: float) -> str:
    """A number in few digits, of which Python refuses to write thousands."""
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "a number of more than 20 digits"
