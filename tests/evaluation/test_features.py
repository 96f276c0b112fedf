"""Feature extractors by name."""

from __future__ import annotations

import pytest
import torch

from purrception.errors import InputError
from purrception.evaluation import EvaluationConfig
from purrception.evaluation.extractors.classifier import ImageClassifier
from purrception.evaluation.features import FEATURES, build_features


@pytest.mark.parametrize("name", list(FEATURES))
def test_features_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    classifier = ImageClassifier(channels=3, image_size=16, classes=2, feature_dim=8).eval()
    images = torch.rand(300, 3, 16, 16) * 2 - 1
    extract = build_features(name, classifier)
    with torch.no_grad():
        together, alone = extract(images), extract(images[256:])
    assert together.shape[0] == 300
    assert together.std(dim=0).max() > 0
    torch.testing.assert_close(together[256:], alone)


def test_an_unknown_extractor_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"'textures'.*texture"):
        EvaluationConfig(features="textures")
