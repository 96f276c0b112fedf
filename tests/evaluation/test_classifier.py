"""The classifier that gives features and says what is recognised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from purrception.data import DataConfig, images_to_tensor, open_images
from purrception.evaluation import ClassifierConfig, ImageClassifier, train_classifier
from purrception.evaluation.classifier_training import train_or_load_classifier
from purrception.evaluation.extractors.classifier import (
    ClassifierExtractor,
    accuracy,
    load_classifier,
    save_classifier,
)
from purrception.evaluation.features import FeatureCache
from purrception.evaluation.image_sets import split_images
from purrception.evaluation.sealed import write_sealed
from purrception.utils.errors import InputError


def test_a_saved_classifier_is_the_same_one(tmp_path: Path) -> None:
    model = ImageClassifier(channels=1, image_size=16, classes=3, feature_dim=8)
    save_classifier(model, tmp_path / "c.safetensors")
    again = load_classifier(tmp_path / "c.safetensors")
    assert ClassifierExtractor(again).fingerprint == ClassifierExtractor(model).fingerprint
    (tmp_path / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is not a classifier"):
        load_classifier(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="no classifier at"):
        load_classifier(tmp_path / "nowhere")


def test_what_was_learned_comes_from_the_cache_unless_it_is_damaged(tmp_path: Path) -> None:
    cache, images, config = (
        FeatureCache(str(tmp_path)),
        split_images(DataConfig(), "test", 40),
        ClassifierConfig(2),
    )
    learned = train_or_load_classifier(images, 10, config, cache=cache)
    (file,) = (tmp_path / "classifiers").iterdir()
    written = file.stat().st_mtime_ns
    assert ClassifierExtractor(train_or_load_classifier(images, 10, config, cache=cache)).fingerprint == (
        ClassifierExtractor(learned).fingerprint
    )
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"damaged")
    assert ClassifierExtractor(train_or_load_classifier(images, 10, config, cache=cache)).fingerprint == (
        ClassifierExtractor(learned).fingerprint
    )


def test_images_of_another_size_are_refused() -> None:
    extractor = ClassifierExtractor(ImageClassifier(channels=1, image_size=16, classes=3, feature_dim=8))
    with pytest.raises(InputError, match=r"knows images of 1×16×16.*given 3×16×16"):
        extractor(torch.zeros(2, 3, 16, 16))


def test_what_a_classifier_is_trained_with_is_a_setting_and_the_default_is_the_plain_one(tmp_path: Path) -> None:
    images, labels = torch.rand(40, 1, 16, 16) * 2 - 1, torch.arange(40) % 4
    plain = train_classifier(images, labels, 4, ClassifierConfig(steps=3))
    assert [type(layer).__name__ for layer in plain.body[:3]] == ["Conv2d", "ReLU", "MaxPool2d"]
    found = {ClassifierExtractor(plain).fingerprint}
    for setting in ({"blocks": 1}, {"dropout": 0.3}, {"distortion": 0.1}, {"weight_decay": 0.5}):
        config = ClassifierConfig(steps=3, **setting)  # type: ignore[arg-type]
        model = train_classifier(images, labels, 4, config)
        save_classifier(model, tmp_path / "c.safetensors")
        again = load_classifier(tmp_path / "c.safetensors")
        assert torch.equal(again(images), model(images))
        assert ClassifierExtractor(train_classifier(images, labels, 4, config)).fingerprint == (
            ClassifierExtractor(model).fingerprint
        )
        assert ClassifierExtractor(model)(images).spatial.shape == (40, 7 * 4 * 4)  # type: ignore[union-attr]
        found.add(ClassifierExtractor(model).fingerprint)
    assert len(found) == 5
    for wrong in ({"steps": 0}, {"blocks": -1}, {"dropout": 1.0}, {"distortion": -0.1}, {"images": 1}):
        with pytest.raises(InputError, match=f"evaluation.classifier.{next(iter(wrong))}"):
            ClassifierConfig(**wrong)  # type: ignore[arg-type]


def test_a_file_of_an_earlier_version_says_nothing_of_blocks(tmp_path: Path) -> None:
    model = ImageClassifier(channels=1, image_size=16, classes=3, feature_dim=8)
    sizes = {"channels": 1, "image_size": 16, "classes": 3, "feature_dim": 8, "class_names": ["a", "b", "c"]}
    write_sealed(tmp_path / "c.safetensors", model.state_dict(), sizes)
    assert load_classifier(tmp_path / "c.safetensors").blocks == 0


def test_a_classifier_learns_from_as_many_images_as_it_is_told() -> None:
    images, one_class = split_images(DataConfig(), "train"), []
    for count in (5, 50):
        model = train_or_load_classifier(images, 10, ClassifierConfig(steps=1, images=count))
        one_class.append(ClassifierExtractor(model).fingerprint)
    assert one_class[0] != one_class[1]


@pytest.mark.slow
def test_classifier_recognises_real_test_digits() -> None:
    data = {}
    for split in ("train", "test"):
        source = open_images(DataConfig(), split)  # type: ignore[arg-type]
        arrays, labels = zip(*(source[i] for i in range(len(source))), strict=True)
        data[split] = images_to_tensor(arrays), torch.tensor(labels)
    model = train_classifier(*data["train"], classes=10, config=ClassifierConfig())
    assert accuracy(model, *data["test"]) >= 0.95
    shuffled = data["test"][1].roll(1)
    assert accuracy(model, data["test"][0], shuffled) < 0.3
