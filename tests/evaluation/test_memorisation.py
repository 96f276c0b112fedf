"""Memorisation: copies are found, fresh images are not, and images that are only typical are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from purrception.data import UnreadableImageError
from purrception.evaluation.metrics import memorisation as module
from purrception.evaluation.metrics.memorisation import (
    TAIL,
    Distances,
    Memorisation,
    Nearest,
    memorisation,
    nearest_by_codes,
    nearest_by_features,
)
from purrception.evaluation.report_picture import _draw_pairs
from purrception.evaluation.training_neighbours import ShownPairs
from purrception.tokens import TokenDataset, write_tokens
from tests.evaluation.test_held_out import CODES, Codes, CodeTokenizer


def judged(samples: Tensor, training: Tensor, held_out: Tensor) -> Memorisation:
    """Memorisation of points by their own coordinates."""
    distances = Distances(
        nearest_by_features(samples, training),
        nearest_by_features(held_out, training).distance,
        nearest_by_features(samples, held_out),
        len(training),
        len(held_out),
    )
    return memorisation(distances)


def test_copies_are_found() -> None:
    training, held_out = torch.randn(300, 8), torch.randn(200, 8)
    found = judged(training[:150], training, held_out)
    assert (found.copied, found.nearer, found.from_training) == (1, 1, 1)
    assert (found.identical, found.held_out_identical) == (150, 0)
    assert found.c_t < -10
    assert found.verdict == "training images are copied more than chance explains"
    some = judged(torch.cat([training[:15], torch.randn(135, 8)]), training, held_out)
    assert some.copied == pytest.approx(0.1 + 0.9 * TAIL, abs=0.05)
    assert some.identical == 15


def test_of_fresh_images_as_many_count_as_copied_as_of_held_out_ones() -> None:
    found = [judged(*(torch.randn(count, 5) for count in (150, 300, 200))) for _ in range(60)]
    assert np.mean([one.copied for one in found]) == pytest.approx(TAIL, abs=0.01)
    assert np.mean([one.nearer for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.from_training for one in found]) == pytest.approx(0.6, abs=0.02)
    assert np.std([one.c_t for one in found]) == pytest.approx(1, abs=0.35)
    assert {one.expected_from_training for one in found} == {0.6}
    holds = {
        "copied": [one.copied_low <= TAIL <= one.copied_high for one in found],
        "nearer": [one.nearer_low <= 0.5 <= one.nearer_high for one in found],
        "from_training": [one.from_training_low <= 0.6 <= one.from_training_high for one in found],
    }
    assert {name: np.mean(each) >= 0.88 for name, each in holds.items()} == dict.fromkeys(holds, True)


def test_images_that_are_typical_are_no_copies() -> None:
    found = judged(0.4 * torch.randn(2000, 4), torch.randn(1500, 4), torch.randn(1000, 4))
    assert found.copied_low > TAIL
    assert found.c_t < -3
    assert found.from_training_low < found.expected_from_training == 0.6
    assert "typical images rather than copies" in found.verdict
    blurred = judged(5 * torch.randn(400, 5), torch.randn(600, 5), torch.randn(400, 5))
    assert blurred.c_t > 3
    assert blurred.verdict == ""


def test_one_image_again_and_again_is_no_proof_that_training_images_are_favoured() -> None:
    training, held_out = torch.randn(600, 5), torch.randn(400, 5)
    found = judged(training[:1].expand(200, -1) + 3, training, held_out)
    assert found.from_training in (0, 1)
    assert found.from_training_low < 0.6 < found.from_training_high


def test_however_many_distances_are_equal_5_per_cent_of_held_out_images_are_copied() -> None:
    for held_out in (torch.randint(3, (100,)).double(), torch.ones(100), torch.arange(100.0), torch.arange(7.0)):
        count = len(held_out)
        nowhere = Nearest(torch.full((count,), 1e3), torch.zeros(count, dtype=torch.long))
        found = memorisation(
            Distances(Nearest(held_out, nowhere.row), held_out, nowhere, training=5, held_out_images=2)
        )
        assert found.copied == pytest.approx(TAIL)
        assert found.nearer == pytest.approx(0.5)
        assert found.from_training == 1


def test_an_equal_image_is_at_0_however_far_from_the_others() -> None:
    others = torch.randn(50, 6) + 1e4
    images = torch.cat([others[7:9], torch.randn(20, 6) + 1e4])
    found = nearest_by_features(images, others)
    exact = torch.cdist(images.double(), others.double()).min(dim=1)
    assert found.distance[:2].tolist() == [0, 0]
    assert found.row.tolist() == exact.indices.tolist()
    torch.testing.assert_close(found.distance[2:], exact.values[2:])


def test_codes_are_compared_site_by_site_in_any_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(Codes(30), CodeTokenizer(), tmp_path, "train")  # type: ignore[arg-type]
    dataset, rows = TokenDataset(tmp_path), np.arange(2, 30)
    images = torch.randint(CODES, (9, 4, 6))
    images[3] = torch.from_numpy(dataset.rows(np.array([11]))[0][0])
    images[3, 0, 0] = (images[3, 0, 0] + 1) % CODES
    expected = (images[:, None] != torch.from_numpy(dataset.rows(rows)[0])).flatten(2).sum(dim=2).min(dim=1)
    for queries, others in ((256, 4096), (4, 5)):
        monkeypatch.setattr(module, "QUERIES", queries)
        monkeypatch.setattr(module, "OTHERS", others)
        found = nearest_by_codes(images, dataset, rows, torch.device("cpu"))
        assert found.distance.tolist() == expected.values.tolist()
        assert found.row[3] == 9  # row 11, of those from 2 on
        assert found.distance[3] == 1


class Levels:
    """Images of one level each: the number of the image, and what is added to it; one cannot be read."""

    def __init__(self, added: int, broken: int = -1) -> None:
        self.added, self.broken = added, broken

    def read(self, rows: range) -> list[Any]:
        return [
            UnreadableImageError(str(row), "broken")
            if row == self.broken
            else (np.full((4, 4, 1), row + self.added, np.uint8), 0)
            for row in rows
        ]


def test_each_generated_image_is_shown_above_its_own_training_image() -> None:
    panel = Figure().subplots()
    _draw_pairs(panel, ShownPairs(Levels(0), Levels(100, broken=7), (3, 1, 2, 0), (5, 9, 7, 4)))  # type: ignore[arg-type]
    shown = np.asarray(panel.images[0].get_array())
    assert shown.shape == (10, 3 * 4 + 2 * 2, 3)
    assert [int(shown[0, column, 0]) for column in (0, 6, 12)] == [3, 1, 0]
    assert [int(shown[-1, column, 0]) for column in (0, 6, 12)] == [105, 109, 104]  # the third is left out
