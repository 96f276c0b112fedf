"""Labels as people write them → classes: one rule for tars, hub data sets and metadata files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np

from purrception.errors import InputError

LABEL_NAMES = ("label", "cls", "class")
"""What a column or a JSON key that holds labels is called; the first of these that is there counts."""
NO_LABEL = "it has no label, while others have one"
MOST_CLASSES = 2**20
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")

Label = int | str | None
"""The number of a class, its name, or no label."""


def read_label(value: object, where: str) -> Label:
    """What a value means as a label.

    Whole numbers are numbers, however they are written (3, 3.0, "03"); other text is a name, and so is a truth
    value. Nothing, NaN and −1 mean that there is no label.

    Args:
        value: as the file has it.
        where: which image or column, for the error.

    Raises:
        InputError: it is a list, a fraction or another negative number.
    """
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    number = value
    if isinstance(value, str):
        text = value.strip()
        if not NUMBER.fullmatch(text):
            return text or None
        number = float(text)
    if number is None:
        return None
    if isinstance(number, int | float | np.integer | np.floating):
        if number == -1 or math.isnan(number):
            return None
        if number >= 0 and math.isfinite(number) and number == int(number):
            return int(number)
    raise InputError(
        f"{where} has the label {value!r}; a label is a whole number from 0 or a name, nothing or -1 stands for "
        "none: mend it, or take all images without classes (classes 0)"
    )


def class_names_of(labels: Iterable[Label], where: str) -> tuple[str, ...]:
    """Names by label: 0 to the largest number, or the names in alphabetical order; none without labels.

    Raises:
        InputError: some are numbers and others names, or a number is too large to be one of a class.
    """
    found = {label for label in labels if label is not None}
    numbers = {label for label in found if isinstance(label, int)}
    names = sorted(label for label in found if isinstance(label, str))
    if numbers and names:
        raise InputError(
            f"{where} holds labels that are numbers, such as {min(numbers)}, and others such as {names[0]!r}: "
            "use one kind"
        )
    if not numbers:
        return tuple(names)
    if max(numbers) >= MOST_CLASSES:
        raise InputError(
            f"{where} holds the label {max(numbers)}; numbers of classes are below {MOST_CLASSES}: number the "
            "classes from 0, or take all images without classes (classes 0)"
        )
    return tuple(map(str, range(max(numbers) + 1)))
