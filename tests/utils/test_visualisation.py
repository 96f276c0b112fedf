"""Sheets of images."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from purrception.utils.visualisation import class_columns


@pytest.mark.parametrize(
    ("classes", "count", "columns"),
    [
        (10, 100, 10),
        (10, 64, 10),
        (9, 100, 9),  # ten in a row put every class into every column
        (3, 64, 9),
        (2, 64, 8),
        (1, 64, 8),
        (36, 100, 10),  # too many to stand beside each other
        (1000, 64, 8),
        (3, 3, 2),
        (1, 1, 1),
    ],
)
def test_each_class_has_columns_of_its_own(classes: int, count: int, columns: int) -> None:
    assert class_columns([*islice(cycle(range(classes)), count)]) == columns


def test_labels_without_a_turn_make_a_square() -> None:
    assert class_columns([0, 0, 1, 1, 2, 2, 2, 0, 1]) == 3
