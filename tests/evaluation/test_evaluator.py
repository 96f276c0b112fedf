"""Sets against one reference: whose classes the logits are of, what the floors are, what a reader is warned of."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from purrception.data import UnreadableImageError
from purrception.evaluation import FeatureStatistics, ImageClassifier, frechet_distance
from purrception.evaluation.evaluator import Evaluator, Measured
from purrception.evaluation.extractors import Extracted
from purrception.evaluation.extractors.classifier import ClassifierExtractor
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.measure import Metrics
from purrception.evaluation.metrics.per_class import FEWEST, measure_classes
from purrception.evaluation.references import Reference
from purrception.utils.errors import InputError


class Images:
    """Grey noise of 8×8 pixels, brighter with the label; labels take turns."""

    grey = True

    def __init__(self, names: tuple[str, ...], count: int = 24, seed: int = 0, side: int = 8) -> None:
        self.class_names, self.count, self.seed, self.side = names, count, seed, side
        self.broken = -1

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int] | UnreadableImageError]:
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> tuple[np.ndarray, int] | UnreadableImageError:
        if row == self.broken:
            return UnreadableImageError(f"image {row}", "it is empty")
        label = row % max(len(self.class_names), 1)
        noise = np.random.default_rng([self.seed, row]).integers(0, 60, (self.side, self.side, 1))
        return (60 * label + noise).astype(np.uint8), label


class Corners:
    """Features are three pixels, spatial features two others."""

    name, channels, any_size = "corners", 1, False
    fingerprint = hashlib.sha256(b"corners").hexdigest()

    def __call__(self, images: Tensor) -> Extracted:
        pixels = images.flatten(1)
        return Extracted(pixels[:, :3], spatial=pixels[:, 10:12])


def classifier(*names: str) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(1, 8, len(names), 4, names).eval().requires_grad_(False)


def evaluator(images: Images, model: ImageClassifier | None = None, **options: object) -> Evaluator:
    return Evaluator(Reference("real", "custom", images), Corners(), model, **options)  # type: ignore[arg-type]


def test_the_reference_itself_is_at_distance_zero_and_others_are_not() -> None:
    real = Images(("a", "b", "c"))
    tool = evaluator(real, bootstrap=8)
    same, other = tool.measure(real), tool.measure(Images(("a", "b", "c"), seed=1), "others")
    assert same.metrics["frechet"] < 1e-9 < 1e-3 < other.metrics["frechet"]
    assert (same.title, other.title, other.metrics["count"]) == ("generated", "others", 24)
    assert {"frechet_low", "spatial_frechet"} <= other.metrics.keys()
    assert other.class_logits is None
    assert other.logit_names == ("a", "b", "c")


def test_logits_stand_in_the_order_of_the_images_classes() -> None:
    """By name: a set may have some of the classifier's classes, in another order."""
    model, images = classifier("a", "b", "c"), Images(("c", "a"))
    measured = evaluator(Images(("a", "b", "c")), model).measure(images)
    arrays = np.stack([image for image, _ in images.read(range(24))])  # type: ignore[misc]
    raw = model(torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1)
    assert measured.class_logits is not None
    torch.testing.assert_close(measured.class_logits, raw[:, [2, 0, 1]], atol=1e-5, rtol=1e-5)
    assert measured.logit_names == ("c", "a", "b")
    labels = torch.arange(24) % 2
    share = float((measured.class_logits.argmax(1) == labels).float().mean())
    assert measured.metrics["recognised"] == pytest.approx(share)


def test_the_classifier_is_asked_once_where_its_features_are_those_compared() -> None:
    real, model = Images(("a", "b")), classifier("a", "b")
    through_it = Evaluator(Reference("real", "custom", real), ClassifierExtractor(model), model)
    beside_it = evaluator(real, model)
    assert through_it.accuracy == beside_it.accuracy
    assert through_it.accuracy is not None
    assert "inception_score" in through_it.measure(real).metrics  # the extractor's logits
    assert "inception_score" not in beside_it.measure(real).metrics
    assert evaluator(real).accuracy is None


def test_other_classes_are_not_recognised_and_the_reader_is_told() -> None:
    tool = evaluator(Images(("a", "b")), classifier("a", "b"))
    measured = tool.measure(Images(("x", "b")), "strangers")
    assert measured.class_logits is None
    assert "recognised" not in measured.metrics
    said = [line for line in tool.warnings([measured]) if "cannot be matched" in line]
    assert len(said) == 2
    assert "The classes of the strangers (x, b) cannot be matched with those of the classifier" in said[0]
    assert "so that metrics class by class are left out (a, b)" in said[1]
    assert not [line for line in tool.warnings([tool.measure(Images(("b", "a")))]) if "matched" in line]


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"small have 6×6 pixels, the reference 8×8; corners features compare"):
        evaluator(Images(("a",))).measure(Images(("a",), side=6), "small")


def test_halves_are_of_the_reference_alone_and_no_larger_than_asked() -> None:
    tool = evaluator(Images(("a", "b"), count=41))
    whole, part = tool.measure_halves(1000), tool.measure_halves(6)
    assert whole is not None
    assert part is not None
    assert (whole["count"], part["count"]) == (20, 6)
    assert tool.real.spatial_halves is not None
    assert whole["spatial_frechet"] == frechet_distance(*tool.real.spatial_halves)
    assert "spatial_frechet" not in part  # the halves kept of spatial features are of another count
    assert 0 < whole["frechet"] < part["frechet"]
    assert tool.measure_halves(1) is None
    saved = ImageFeatures(FeatureStatistics.of(torch.randn(9, 3)))
    assert Evaluator(Reference("saved", "custom", None, saved), Corners()).measure_halves(5) is None


def test_few_images_and_broken_ones_are_warned_of() -> None:
    real = Images(("a", "b"), count=12)
    tool = evaluator(real)
    broken = Images(("a", "b"), count=4)
    broken.broken = 1
    assert tool.warnings([tool.measure(real)]) == []
    few, skipped = tool.warnings([tool.measure(broken)])
    assert few.startswith("3 images are too few for features of 3 dimensions")
    assert skipped == "1 image of the generated cannot be read and is left out: image 1: it is empty"
    with pytest.raises(UnreadableImageError):
        evaluator(real, strict=True).measure(broken)


def measured_classes(names: tuple[str, ...], shifts: tuple[float, ...], count: int = 12) -> Measured:
    """``count`` images a class, whose features lie ``shift`` from where the reference has that class."""
    labels = torch.arange(count * len(names)) % len(names)
    features = CENTRES[labels] + torch.tensor(shifts)[labels, None] + torch.randn(len(labels), 3).double()
    known = ImageFeatures(FeatureStatistics.of(features), features=features, labels=labels)
    return Measured("generated", Images(names), known, Metrics(count=len(labels), frechet=0.0), None, names)


CENTRES = torch.arange(9).double().reshape(3, 3)


def test_classes_are_measured_each_with_its_own_and_the_worst_comes_first() -> None:
    real = measured_classes(("a", "b", "c"), (0.0, 0.0, 0.0)).features
    found = measure_classes(measured_classes(("a", "b", "c"), (4.0, 12.0, 0.0)), real, ("a", "b", "c"))
    assert [one.name for one in found] == ["b", "a", "c"]
    kids = [one.metrics["kid"] for one in found]
    assert kids == sorted(kids, reverse=True)
    assert [(one.label, one.real_label, one.real_count, one.metrics["count"]) for one in found] == [
        (1, 1, 12, 12),
        (0, 0, 12, 12),
        (2, 2, 12, 12),
    ]
    plain = found[0].plain()
    assert plain.keys() == {"label", "name", "real_label", "figures", "real_count", "mistaken_for"}
    assert plain["figures"]["kid"] == found[0].metrics["kid"]
    assert plain["figures"]["recognised"] is None


def test_classes_are_matched_by_name_whatever_their_labels() -> None:
    real = measured_classes(("a", "b", "c"), (0.0, 0.0, 0.0)).features
    turned = measured_classes(("c", "b"), (0.0, 0.0))
    features = CENTRES[[2, 1]][turned.features.labels] + torch.randn(24, 3).double()  # c's centre is the third
    known = ImageFeatures(FeatureStatistics.of(features), features=features, labels=turned.features.labels)
    moved = Measured("generated", turned.images, known, turned.metrics, None, ("c", "b"))
    found = {one.name: one for one in measure_classes(moved, real, ("a", "b", "c"))}
    assert {name: one.real_label for name, one in found.items()} == {"c": 2, "b": 1}
    assert all(one.metrics["frechet"] < 4 for one in found.values())


def test_classes_of_few_images_and_unknown_ones_are_left_out() -> None:
    real = measured_classes(("a", "b"), (0.0, 0.0)).features
    assert measure_classes(measured_classes(("a", "b"), (0.0, 0.0), FEWEST - 1), real, ("a", "b")) == []
    assert len(measure_classes(measured_classes(("a", "b"), (0.0, 0.0), FEWEST), real, ("a", "b"))) == 2
    for names in (("x", "b"), ("a",), ()):
        assert measure_classes(measured_classes(("a", "b"), (0.0, 0.0)), real, names) == []


def test_a_class_names_what_it_is_most_often_taken_for() -> None:
    one = measured_classes(("a", "b"), (0.0, 0.0), count=6)
    predicted = torch.tensor(
        [0, 1, 2, 1, 1, 1, 2, 1, 0, 1, 0, 1]
    )  # labels are 0 and 1 in turn; 2 is another class
    asked = Measured("generated", one.images, one.features, one.metrics, torch.eye(3)[predicted], ("a", "b", "z"))
    found = {each.name: each for each in measure_classes(asked, one.features, ("a", "b"))}
    assert (found["a"].mistaken_for, found["b"].mistaken_for) == ("z", "")
    assert found["a"].metrics["recognised"] == pytest.approx(3 / 6)
    assert found["b"].metrics["recognised"] == 1
