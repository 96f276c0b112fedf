"""Samples against real test images: real ones are at the floor, others further off; noise is the same for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from purrception.data import DataConfig, open_images
from purrception.evaluation import ClassifierConfig
from purrception.evaluation.sample_quality import SampleEvaluator
from purrception.flow import Generation, ObjectiveConfig, SamplingConfig, build_objective
from purrception.models import PurrceptionTransformer
from purrception.utils.errors import InputError

DATA, NUM = DataConfig(), 40


class Album:
    """Stands for a tokenizer: the first code of an image is the number of a real test image."""

    image_channels = 1

    def __init__(self) -> None:
        source = open_images(DATA, "test")
        self.labels = np.array([source[row][1] for row in range(len(source))])
        self.images = np.stack([source[row][0] for row in range(len(source))])

    def decode_images(self, indices: torch.Tensor, *, truncate: bool = False) -> np.ndarray:
        assert not truncate
        return self.images[indices[:, 0, 0].numpy()]

    def of_class(self, label: int, rank: int) -> int:
        """The number of a test image of a class."""
        return int(np.flatnonzero(self.labels == label)[rank])


@pytest.fixture(scope="module")
def album() -> Album:
    return Album()


def evaluator(album: Album, num: int = NUM, classes: int = 10, **options: object) -> SampleEvaluator:
    classifier = ClassifierConfig(steps=60)
    return SampleEvaluator(DATA, album, classes, num, classifier, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def texture(album: Album) -> SampleEvaluator:
    return evaluator(album, features="texture")


def generation(numbers: list[int], nfe: int = 7) -> Generation:
    return Generation(torch.tensor(numbers).view(-1, 1, 1), None, nfe)


def test_real_images_are_near_the_floor_and_recognised_as_their_own_class_alone(
    album: Album, texture: SampleEvaluator
) -> None:
    real = texture.measure_samples(generation([album.of_class(n % 10, n // 10) for n in range(NUM)]))
    one_class = texture.measure_samples(generation([album.of_class(3, n % 20) for n in range(NUM)]))
    assert real["frechet"] < 2 * texture.floor < one_class["frechet"]
    assert real["frechet_low"] < real["frechet"] < real["frechet_high"]
    assert real["recall"] > one_class["recall"]
    assert real["recognised"] > 0.8
    assert one_class["recognised"] == pytest.approx(0.1, abs=0.05)  # of every ten a 3 was asked for once
    assert texture.accuracy > 0.8
    assert (real["nfe"], real["count"]) == (7, NUM)


def test_the_classifier_is_trained_once_for_all(
    album: Album, texture: SampleEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> None:
        raise AssertionError("it is trained again")

    monkeypatch.setattr("purrception.evaluation.classifier_training.train_classifier", train)
    assert evaluator(album, features="texture").accuracy == texture.accuracy
    with pytest.raises(AssertionError, match="trained again"):
        evaluator(album, features="texture", seed=1)


def test_all_settings_are_measured_on_the_same_noise_unless_another_is_asked_for(texture: SampleEvaluator) -> None:
    objective = build_objective(ObjectiveConfig("purrception"))
    network = PurrceptionTransformer(
        grid=(2, 2), codebook_size=355, codebook_dim=3, num_classes=10, depth=1, width=16, heads=2, patch_size=1
    ).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.set_codebook(torch.randn(355, 3))
    settings = SamplingConfig(num_inference_steps=2)
    first = texture.measure(network, objective, settings)
    assert texture.measure(network, objective, settings) == first
    assert texture.measure(network, objective, settings, seed=1) != first
    assert first["nfe"] == 2


def test_what_cannot_be_measured_is_refused(album: Album) -> None:
    with pytest.raises(InputError, match="needs at least 2 classes; given 1"):
        evaluator(album, classes=1)
    with pytest.raises(InputError, match="more than 3 images a set"):
        evaluator(album, num=3)
