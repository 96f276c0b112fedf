"""The feature extractors in which images are compared, by name and behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from purrception.evaluation.extractors.base import Extracted, Extractor, extract_in_groups, is_grey, with_channels
from purrception.evaluation.extractors.classifier import ClassifierExtractor, ImageClassifier
from purrception.evaluation.extractors.dinov2 import open_dinov2
from purrception.evaluation.extractors.inception import open_inception
from purrception.evaluation.extractors.random_features import TextureExtractor
from purrception.evaluation.settings import check_features
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class ExtractorInputs:
    """What an extractor may be built from."""

    classifier: ImageClassifier | None = None
    """A classifier trained on real images; none where there are no classes."""
    weights: str = ""
    """A file, a folder or a hub id, depending on the extractor."""
    device: str = "cpu"
    """Device of large networks; small ones stay on the CPU, where every machine rounds alike."""
    grey: Callable[[], bool] = lambda: False
    """Whether nothing that is compared has any colour; asked only where it matters, since a grey set is read for
    it."""


def _classifier(given: ExtractorInputs) -> Extractor:
    if given.classifier is None:
        raise InputError(
            "features of a classifier need real images of at least 2 classes to train it on, or a trained one "
            "with --classifier FILE; without classes take --features texture, inception or dinov2"
        )
    return ClassifierExtractor(given.classifier)


EXTRACTORS: dict[str, Callable[[ExtractorInputs], Extractor]] = {
    "classifier": _classifier,
    "texture": lambda given: TextureExtractor(1 if given.grey() else 3),
    "inception": lambda given: open_inception(given.weights, given.device),
    "dinov2": lambda given: open_dinov2(given.weights, given.device),
}


def build_extractor(name: str, ingredients: ExtractorInputs) -> Extractor:
    """The extractor of that name.

    Raises:
        InputError: there is none (the nearest known name is suggested), or it lacks weights or a library.
    """
    check_features(name)
    return EXTRACTORS[name](ingredients)
