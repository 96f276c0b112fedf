"""Recognition by parts of the classes' names."""

from __future__ import annotations

import pytest
import torch

from purrception.evaluation.metrics.parts import recognised_parts

NAMES = ("food · flat", "food · round", "animal · flat", "animal · round")


def test_each_part_is_recognised_by_itself() -> None:
    logits = torch.full((4, 4), -9.0)
    for row, taken_for in enumerate((0, 0, 1, 3)):
        logits[row, taken_for] = 9
    category, style = recognised_parts(logits, torch.tensor([0, 1, 2, 3]), NAMES)
    assert (category.values, category.recognised) == (("food", "animal"), 0.75)
    assert (style.values, style.recognised) == (("flat", "round"), 0.5)
    assert 0 < style.recognised_low < 0.5 < style.recognised_high < 1


def test_a_part_is_taken_for_what_is_most_probable_over_its_classes() -> None:
    shares = torch.tensor([[0.4, 0.0, 0.3, 0.3]])  # flat food is the most probable class, animals are more so
    category, style = recognised_parts(shares.log(), torch.tensor([2]), NAMES)
    assert (category.recognised, style.recognised) == (1, 1)


@pytest.mark.parametrize("names", [("food", "animal"), ("food · flat", "animal"), ("a · b · c", "a · b")])
def test_names_without_equally_many_parts_have_none(names: tuple[str, ...]) -> None:
    assert recognised_parts(torch.zeros(3, 2), torch.tensor([0, 1, 0]), names) == ()
