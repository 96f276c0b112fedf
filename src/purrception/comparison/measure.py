"""What is measured of a network at a checkpoint of a comparison, the same for every objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data import DataConfig, images_to_tensor, open_images
from purrception.errors import InputError
from purrception.evaluation.classifier import (
    ClassifierConfig,
    ImageClassifier,
    accuracy,
    extract_features,
    train_classifier,
)
from purrception.evaluation.likelihood import LikelihoodBound, likelihood_bound
from purrception.evaluation.metrics import FeatureStatistics, frechet_distance, precision_recall
from purrception.flow import Objective, SamplingConfig
from purrception.models import PurrceptionTransformer
from purrception.sampling import sample_codes
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset


@dataclass(frozen=True)
class Quality:
    """Figures of one network; distances are to the real test images."""

    frechet: float
    precision: float
    recall: float
    recognised: float
    """Share of generated images recognised as the class asked for."""
    nfe: int


class Judge:
    """Holds the real images' features and measures networks against them.

    Args:
        data: the images; they need at least two classes, since a classifier gives the features.
        tokenizer: decodes generated codes.
        held_out: test shards.
        num: images generated per measurement; classes take turns.
        seed: of the generated images and of the classifier.
    """

    def __init__(
        self, data: DataConfig, tokenizer: VQTokenizer, held_out: TokenDataset, num: int, seed: int = 0
    ) -> None:
        self.tokenizer, self.held_out, self.seed = tokenizer, held_out, seed
        classes = held_out.manifest.num_classes
        if classes < 2:
            raise InputError("a comparison needs images of at least 2 classes: a classifier gives its features")
        train_images, train_labels = _load(data, "train")
        test_images, _ = _load(data, "test")
        self.classifier: ImageClassifier = train_classifier(
            train_images, train_labels, classes, ClassifierConfig(), seed
        )
        self._real = extract_features(self.classifier, test_images)
        self._statistics = FeatureStatistics.of(self._real)
        train_statistics = FeatureStatistics.of(extract_features(self.classifier, train_images))
        self.floor = frechet_distance(train_statistics, self._statistics)
        self._labels = torch.arange(num) % classes

    def measure(self, network: PurrceptionTransformer, objective: Objective, settings: SamplingConfig) -> Quality:
        """Generate under ``settings``, always from the same noise, and judge."""
        made = sample_codes(network, objective, self._labels, settings, self.seed, batch_size=256)
        images = torch.cat([self.tokenizer.decode(part).clamp(-1, 1) for part in made.indices.split(256)])
        features = extract_features(self.classifier, images)
        neighbourhood = precision_recall(self._real, features)
        return Quality(
            frechet=frechet_distance(FeatureStatistics.of(features), self._statistics),
            precision=neighbourhood.precision,
            recall=neighbourhood.recall,
            recognised=accuracy(self.classifier, images, self._labels),
            nfe=made.nfe,
        )

    def bound(self, network: PurrceptionTransformer, objective: Objective) -> LikelihoodBound:
        """The bound on the held-out negative log-likelihood; no sampling is involved."""
        return likelihood_bound(network, objective, self.held_out, seed=self.seed)


def _load(data: DataConfig, split: str) -> tuple[Tensor, Tensor]:
    source = open_images(data, split)  # type: ignore[arg-type]
    arrays, labels = zip(*(source[i] for i in range(len(source))), strict=True)
    return images_to_tensor(arrays), torch.tensor(labels)
