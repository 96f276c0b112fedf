"""What all dataclasses of settings share: the names of their options, bounds for numbers, and a default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints

from purrception.utils.errors import InputError

LARGEST = 2**63 - 1
"""The largest number that a setting may be where nothing smaller bounds it."""
LARGEST_BY_NAME = {"learning_rate": 1e6}
"""The largest value of settings of these names: above this learning rate a few steps of AdamW make any weight
overflow float32."""
TIMEOUT_MINUTES = 30.0
"""How long processes wait, by default, for one that shows no progress."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a command runs."""

    device: str = "auto"
    """Device to run on: cpu, cuda, cuda:1, …; auto: a GPU if there is one (one per process under torchrun)."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
    """Where a command runs that ``torchrun`` can start in several processes."""

    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how many minutes processes wait for one that shows no progress."""


def option_names(kind: type, prefix: str = "") -> list[str]:
    """The fields of a dataclass and of those nested in it, with dots, such as ``training.batch_size``.

    Args:
        kind: the dataclass.
        prefix: what each name begins with.
    """
    hints = get_type_hints(kind)
    names: list[str] = []
    for item in dataclasses.fields(kind):
        inner = hints[item.name]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            names += option_names(inner, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def as_options(settings: Any, defaults: Any) -> dict[str, Any]:
    """The values of a dataclass that differ from ``defaults``, by their names on the command line.

    Args:
        settings: the values; see ``OPTIONS`` of the dataclass.
        defaults: of the same type.
    """
    names = getattr(settings, "OPTIONS", {})
    values = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    return {names.get(name, name): value for name, value in values.items() if value != getattr(defaults, name)}


@cache
def field_docs(kind: type) -> dict[str, str]:
    """What the docstring below each field of a dataclass says, by field, on one line; of inherited fields, too."""
    docs = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, doc in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            ):
                docs[ast.unparse(field.target)] = " ".join(str(doc.value.value).split())
    return docs


def check_numbers(settings: Any, prefix: str = "", **at_most: float) -> None:
    """Refuse numbers that are not finite or absurdly large.

    The bounds are generous: they stop a mistyped number, or one from somebody else's file, from asking for more
    memory or time than there is.

    Args:
        settings: a dataclass; those nested in it are checked as well.
        prefix: what names in errors begin with.
        at_most: the largest value of a setting by its name; of a tuple or list, of each entry.

    Raises:
        InputError: a number is refused; the message names the setting.
    """
    limits = LARGEST_BY_NAME | at_most
    for item in dataclasses.fields(settings):
        value, name = getattr(settings, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{name} is a finite number; given {number}")
            limit = limits.get(item.name, LARGEST)
            if isinstance(number, int | float) and abs(number) > limit:
                raise InputError(f"{name} is at most {limit}; given {_short(number)}")


def check_at_least(settings: Any, prefix: str = "", **least: float) -> None:
    """Refuse numbers that are too small; ``None`` passes.

    Args:
        settings: a dataclass.
        prefix: what names in errors begin with.
        least: the smallest value of a setting by its name.

    Raises:
        InputError: a number is refused; the message names the setting.
    """
    for name, limit in least.items():
        given = getattr(settings, name)
        if given is not None and not given >= limit:
            raise InputError(f"{prefix}{name} must be at least {limit}; given {given}")


def check_positive(settings: Any, prefix: str, *names: str) -> None:
    """Refuse settings of these names that are not above 0; see :func:`check_at_least`."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"{prefix}{name} must be positive; given {getattr(settings, name)}")


def _short(number: float) -> str:
    """A number as text; Python refuses to print one of thousands of digits."""
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "a number of more than 20 digits"
