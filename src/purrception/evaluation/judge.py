"""Generated images against real ones: one judge for evaluations, comparisons and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data import DataConfig, images_to_tensor, load_split
from purrception.errors import InputError
from purrception.evaluation.classifier import (
    ClassifierConfig,
    ImageClassifier,
    accuracy,
    train_classifier,
)
from purrception.evaluation.features import build_features
from purrception.evaluation.metrics import FeatureStatistics, frechet_distance, precision_recall
from purrception.flow import Objective, SamplingConfig
from purrception.models import PurrceptionTransformer
from purrception.sampling import sample_codes
from purrception.tokenizers import VQTokenizer


@dataclass(frozen=True)
class Quality:
    """Figures of one set of generated images; distances are to the real test images."""

    frechet: float
    precision: float
    """Share of generated images on the manifold of the real ones."""
    recall: float
    """Share of real images on the manifold of the generated ones."""
    recognised: float
    """Share that the classifier recognises as the class asked for."""
    nfe: int
    """Network evaluations per image."""


class Judge:
    """Holds the real images' features and measures networks against them.

    A classifier learns the real training images, and says whether a generated image is recognised; its accuracy on
    the real test images says how far it can be trusted. Distances are measured in its features or in others.

    Args:
        data: the images; they need at least two classes, since a classifier judges them.
        tokenizer: decodes generated codes.
        classes: number of classes.
        num: images generated per measurement; classes take turns.
        classifier: how the classifier is trained.
        features: what distances, precision and recall are measured in, a name in ``FEATURES``.
        seed: of the generated images and of the classifier.

    Raises:
        InputError: the data has no classes, or no test images.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: VQTokenizer,
        classes: int,
        num: int,
        classifier: ClassifierConfig,
        features: str = "classifier",
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        if classes < 2:
            raise InputError(
                f"images are judged by a classifier, which needs at least 2 classes; given {classes}: put each "
                "class into a folder of its own"
            )
        images, labels = load_split(data, "train")
        test_images, test_labels = load_split(data, "test")
        self.classifier: ImageClassifier = train_classifier(images, labels, classes, classifier, seed)
        self.features = features
        self._extract = build_features(features, self.classifier)
        self._real = self._extract(test_images)
        self._statistics = FeatureStatistics.of(self._real)
        self.floor = self._distance(self._extract(images))
        """Distance of real training to real test images: what a perfect model could reach."""
        self.accuracy = accuracy(self.classifier, test_images, test_labels)
        """Of the classifier on real test images."""
        self.real_images = len(test_images)
        self._labels = torch.arange(num) % classes

    def measure(
        self,
        network: PurrceptionTransformer,
        objective: Objective,
        settings: SamplingConfig,
        seed: int | None = None,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> Quality:
        """Generate under ``settings``, from the same noise unless another seed is given, and judge."""
        chosen = self.seed if seed is None else seed
        made = sample_codes(
            network, objective, self._labels, settings, chosen, batch_size=256, on_progress=on_progress
        )
        images = images_to_tensor(list(self.tokenizer.decode_images(made.indices)))
        features = self._extract(images)
        neighbourhood = precision_recall(self._real, features)
        return Quality(
            frechet=self._distance(features),
            precision=neighbourhood.precision,
            recall=neighbourhood.recall,
            recognised=accuracy(self.classifier, images, self._labels),
            nfe=made.nfe,
        )

    def _distance(self, features: Tensor) -> float:
        return frechet_distance(FeatureStatistics.of(features), self._statistics)
