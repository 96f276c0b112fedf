"""Reading labels as people write them: the same rule for tars, hub data sets and metadata files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np

from purrception.utils.errors import InputError

LABEL_NAMES = ("label", "cls", "class")
"""Names of a column or JSON key of labels; the first one that exists is used."""
MOST_CLASSES = 2**20
PLAUSIBLE_CLASSES = 2**16
"""With more classes, at least one in ``FEWEST_USED`` must occur: identifiers and timestamps are not labels."""
FEWEST_USED = 10
LONGEST_LABEL = 1000
"""The most characters in the name of a class."""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")

Label = int | str | None
"""The number of a class, its name, or no label."""


def read_label(value: object, where: str) -> Label:
    """Read a value as a label.

    Whole numbers are numbers, however they are written (3, 3.0, "03"); other text and truth values are names.
    Nothing, NaN and −1 mean that there is no label.

    Args:
        value: the value in the file.
        where: the image or column, for the error.

    Raises:
        InputError: the value is a list, a fraction, another negative number or far too long a text.
    """
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    number = value
    if isinstance(value, str):
        text = value.strip()
        if not NUMBER.fullmatch(text):
            if len(text) > LONGEST_LABEL:
                raise _not_a_label(value, where)
            return text or None
        number = float(text)
    if isinstance(number, float | np.floating):
        if math.isnan(number):
            return None
        number = int(number) if math.isfinite(number) and number == int(number) else number
    if number is None or number == -1:
        return None
    if isinstance(number, int | np.integer) and number >= 0:
        return int(number)
    raise _not_a_label(value, where)


def _not_a_label(value: object, where: str) -> InputError:
    return InputError(
        f"{where} has the label {_short(value)}; a label is a whole number from 0 or a name of at most "
        f"{LONGEST_LABEL} characters, nothing or -1 stands for none: correct it, or use all images without "
        "classes (classes 0)"
    )


def _short(value: object) -> str:
    text = f"a number of {value.bit_length()} bits" if isinstance(value, int) and value >= 2**64 else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def class_names_of(labels: Iterable[Label], where: str) -> tuple[str, ...]:
    """Class names by label: 0 to the largest number, or the names in alphabetical order; none without labels.

    Raises:
        InputError: some labels are numbers and others names, there are too many names, or a number is too large to
            be a label.
    """
    found = {label for label in labels if label is not None}
    numbers = {label for label in found if isinstance(label, int)}
    names = sorted(label for label in found if isinstance(label, str))
    if numbers and names:
        raise InputError(
            f"{where} holds labels that are numbers, such as {_short(min(numbers))}, and others such as "
            f"{_short(names[0])}: use one kind"
        )
    count = max(numbers) + 1 if numbers else len(names)
    if count > MOST_CLASSES or (numbers and count > max(PLAUSIBLE_CLASSES, FEWEST_USED * len(numbers))):
        found_are = f"the label {_short(max(numbers))}, and {len(numbers)} in all" if numbers else f"{count} names"
        raise InputError(
            f"{where} holds {found_are}; there are at most {MOST_CLASSES} classes, and of more than "
            f"{PLAUSIBLE_CLASSES} at least a tenth occur: number the classes from 0, or use all images without "
            "classes (classes 0)"
        )
    return tuple(map(str, range(count))) if numbers else tuple(names)
