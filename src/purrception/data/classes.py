"""Classes: the labels that a network or a set of images knows, and what people call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from purrception.utils.errors import InputError, unknown_name


def match_classes(names: Sequence[str], others: Sequence[str]) -> tuple[int, ...] | None:
    """The label in one set of classes that each label of another one stands for.

    Equal names mean the same class, in whatever order the two have them. Where the names of one are nothing but
    its labels (0, 1, …), it has no names: labels then mean the same if the two have as many classes, unless the
    other's names are the same numbers in another order (0, 1, 10, 2, …), since a 2 may then be either.

    Args:
        names: of the one, by label.
        others: of the other, by label.

    Returns:
        By label of the one; none where they cannot be matched.
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
    """Labels 0 to ``count`` − 1, with names where they have some.

    A number is a label. A text is the class of that name; one that no class bears is a label only where names and
    labels cannot be confused: not where a class is called by another number than its label.
    """

    count: int
    names: tuple[str, ...] = ()
    """By label; none where classes have no names."""

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
            if not given.isdecimal() or self._numbered_otherwise:
                raise unknown_name("class", given, self.names or [f"labels 0 to {self.count - 1}"])
        if not 0 <= int(given) < self.count:
            raise InputError(f"class labels are 0 to {self.count - 1}; given {given}")
        return int(given)

    def text(self, label: int) -> str:
        """What :meth:`label` reads back as this label: the number where it can, else the name."""
        return self.names[label] if self._numbered_otherwise else str(label)

    @property
    def _numbered_otherwise(self) -> bool:
        return any(name.isdecimal() and name != str(label) for label, name in enumerate(self.names))
