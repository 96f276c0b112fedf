"""What is measured of a network at a checkpoint of a comparison, the same for every objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from purrception.data import DataConfig, images_to_tensor, load_split, tensor_to_images
from purrception.errors import InputError
from purrception.evaluation.classifier import (
    ClassifierConfig,
    ImageClassifier,
    accuracy,
    extract_features,
    train_classifier,
)
from purrception.evaluation.likelihood import likelihood_bound
from purrception.evaluation.metrics import FeatureStatistics, frechet_distance, precision_recall
from purrception.flow import GaussianObjective, Objective, SamplingConfig, TrainingBatch
from purrception.models import PurrceptionTransformer
from purrception.sampling import sample_codes
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training.batches import to_device, validation_batch


@dataclass(frozen=True)
class Quality:
    """Figures of one network; distances are to the real test images."""

    frechet: float
    precision: float
    recall: float
    recognised: float
    """Share of generated images recognised as the class asked for."""
    nfe: int


@dataclass(frozen=True)
class HeldOut:
    """Figures of one network on held-out codes; no sampling is involved."""

    bits_per_code: float
    """Bound on the negative log-likelihood."""
    bits_error: float
    """Its standard error over images."""
    cross_entropy: float | None
    """Of the posterior, nats, over t as in training; none without a posterior. DFM's is of masked sites."""
    mean_error: float | None
    """E|z_1 − μ(z_t)|² per latent number, over t; none off the Gaussian path."""


class Judge:
    """Holds the real images' features and measures networks against them.

    Args:
        data: the images; they need at least two classes, since a classifier gives the features.
        tokenizer: decodes generated codes.
        held_out: test shards.
        num: images generated per measurement; classes take turns.
        classifier: how the classifier that gives the features is trained.
        seed: of the generated images and of the classifier.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: VQTokenizer,
        held_out: TokenDataset,
        num: int,
        classifier: ClassifierConfig,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.held_out, self.seed = tokenizer, held_out, seed
        classes = held_out.manifest.num_classes
        if classes < 2:
            raise InputError("a comparison needs images of at least 2 classes: a classifier gives its features")
        train_images, train_labels = load_split(data, "train")
        test_images, _ = load_split(data, "test")
        self.classifier: ImageClassifier = train_classifier(train_images, train_labels, classes, classifier, seed)
        self._real = extract_features(self.classifier, test_images)
        self._statistics = FeatureStatistics.of(self._real)
        train_statistics = FeatureStatistics.of(extract_features(self.classifier, train_images))
        self.floor = frechet_distance(train_statistics, self._statistics)
        self._labels = torch.arange(num) % classes

    def measure(
        self,
        network: PurrceptionTransformer,
        objective: Objective,
        settings: SamplingConfig,
        seed: int | None = None,
    ) -> Quality:
        """Generate under ``settings``, from the same noise unless another seed is given, and judge."""
        chosen = self.seed if seed is None else seed
        made = sample_codes(network, objective, self._labels, settings, chosen, batch_size=256)
        decoded = [tensor_to_images(self.tokenizer.decode(part)) for part in made.indices.split(256)]
        images = images_to_tensor(list(np.concatenate(decoded)))
        features = extract_features(self.classifier, images)
        neighbourhood = precision_recall(self._real, features)
        return Quality(
            frechet=frechet_distance(FeatureStatistics.of(features), self._statistics),
            precision=neighbourhood.precision,
            recall=neighbourhood.recall,
            recognised=accuracy(self.classifier, images, self._labels),
            nfe=made.nfe,
        )

    @torch.no_grad()
    def held_out_figures(self, network: PurrceptionTransformer, objective: Objective) -> HeldOut:
        """Likelihood bound, cross-entropy and error of the mean on at most 256 held-out rows."""
        bound = likelihood_bound(network, objective, self.held_out, seed=self.seed)
        batch = validation_batch(self.held_out, self.seed, 0, min(256, len(self.held_out)))
        batch = to_device(batch, network.device)
        cross_entropy = objective.loss(network, batch).figures.get("cross_entropy")
        return HeldOut(
            bits_per_code=bound.bits_per_code,
            bits_error=bound.standard_error,
            cross_entropy=None if cross_entropy is None else float(cross_entropy),
            mean_error=_mean_error(network, objective, batch),
        )


def _mean_error(network: PurrceptionTransformer, objective: Objective, batch: TrainingBatch) -> float | None:
    """Square error of the data prediction at t = 0.1, 0.3, …, 0.9, per latent number."""
    if not isinstance(objective, GaussianObjective):
        return None
    z_1 = network.embed(batch.indices)
    errors = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        z_t = objective.path.sample(z_1, batch.noise, torch.full_like(batch.time, t)).z_t
        mean = objective.predict(network, z_t, t, batch.labels).mean
        errors.append(float((z_1 - mean).square().mean()))
    return sum(errors) / len(errors)
