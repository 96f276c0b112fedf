"""Classes: the labels of a network or of a set of images, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from purrception.utils.errors import InputError, unknown_name


def match_classes(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """Match the labels of one set of classes with those of another.

    Equal names mean the same class, whatever their order. Where the names of one set are just its labels
    (0, 1, …), it has no real names: labels then mean the same if both sets have equally many classes, unless the
    other's names are the same numbers in another order (0, 1, 10, 2, …), because a 2 would then be ambiguous.

    Args:
        names: the names of the first set, by label.
        others: the names of the second set, by label.

    Returns:
        The second set's label for each label of the first; ``None`` where the sets cannot be matched.
    """
    names, others = tuple(names), tuple(others)
    if names == others:
        return tuple(range(len(names)))
    if len(names) == len(others) and tuple(map(str, range(len(names)))) in (names, others):
        return None if set(names) == set(others) else tuple(range(len(names)))
    known = set(names) <= set(others) and len(set(others)) == len(others)
    return tuple(map(others.index, names)) if known else None


@dataclass(frozen=True)
class Classes:
    """Labels 0 to ``count`` − 1, which may have names.

    A number is a label, and text is the name of a class. Text that is no name is read as a label, unless names and
    labels could be confused because the name of some class is the number of another label.
    """

    count: int
    names: tuple[str, ...] = ()
    """The names by label; empty where classes have no names."""

    def label(self, given: int | str) -> int:
        """The label of a class.

        Raises:
            InputError: a label out of range, an unknown name, or a class of a model without any.
        """
        if self.count == 0:
            raise InputError(f"this model has no classes; given the class {given!r}")
        if isinstance(given, str):
            if given in self.names:
                return self.names.index(given)
            if not given.isdecimal() or self._has_misleading_numbers:
                raise unknown_name("class", given, self.names or [f"labels 0 to {self.count - 1}"])
        if not 0 <= int(given) < self.count:
            raise InputError(f"class labels are 0 to {self.count - 1}; given {given}")
        return int(given)

    def text(self, label: int) -> str:
        """Text that :meth:`label` reads as this label: the number where possible, else the name."""
        return self.names[label] if self._has_misleading_numbers else str(label)

    @property
    def _has_misleading_numbers(self) -> bool:
        return any(name.isdecimal() and name != str(label) for label, name in enumerate(self.names))
