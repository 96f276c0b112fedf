"""The quality of a network's samples, with the metrics of ``evaluate``: for comparisons, sweeps and diagnoses."""

from __future__ import annotations

import torch

from purrception.data import DataConfig
from purrception.evaluation.classifier_training import train_or_load_classifier
from purrception.evaluation.evaluator import Evaluator
from purrception.evaluation.extractors import ExtractorInputs, ImageClassifier, build_extractor
from purrception.evaluation.features import FeatureCache
from purrception.evaluation.image_sets import CodeImages, split_images
from purrception.evaluation.metrics.measure import Metrics
from purrception.evaluation.references import open_reference
from purrception.evaluation.settings import ClassifierConfig
from purrception.flow import Generation, Objective, SamplingConfig
from purrception.generation.sampler import sample_codes
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.utils.errors import InputError

ROUNDS = 50
"""Rounds of each measurement's bootstrap."""


class SampleMetrics(Metrics):
    """Metrics of generated images against the real test images."""

    nfe: int
    """Network evaluations per image."""


class SampleEvaluator:
    """Generates images with networks and measures them against the real test images.

    A classifier trained on the real training images says whether a generated image is recognised; its accuracy on
    the real test images tells how far it can be trusted. Distances are measured in its features or in others.

    Args:
        data: the real images; they need at least two classes for the classifier.
        tokenizer: decodes generated codes.
        classes: number of classes.
        num: images generated per measurement; classes take turns.
        classifier: how the classifier is trained.
        features: what distances, precision and recall are measured in, a name in ``EXTRACTORS``.
        seed: of the generated images and of the classifier.

    Raises:
        InputError: the data has no classes, or too few test images.
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
        if classes < 2:
            raise InputError(
                f"images are judged by a classifier, which needs at least 2 classes; given {classes}: put each "
                "class into a folder of its own"
            )
        self.tokenizer, self.seed, self.features, self.num = tokenizer, seed, features, num
        train, reference = split_images(data, "train"), open_reference("test", data, tokenizer)
        cache = FeatureCache()  # of the classifier alone: what is generated is not measured again
        self.classifier: ImageClassifier = train_or_load_classifier(train, classes, classifier, seed, cache)
        inputs = ExtractorInputs(self.classifier, grey=lambda: reference.grey and train.grey)
        extractor = build_extractor(features, inputs)
        self._evaluator = Evaluator(reference, extractor, self.classifier, bootstrap=ROUNDS, seed=seed)
        floor = self._evaluator.measure(split_images(data, "train", num), "real training images").metrics
        if "precision" not in floor:
            raise InputError("precision and recall need more than 3 images a set, generated and real")
        self.floor = floor["frechet"]
        """Distance of as many real training images: what a perfect model could reach at this count."""
        accuracy = self._evaluator.accuracy
        assert accuracy is not None
        self.accuracy = accuracy
        """The classifier's accuracy on real test images."""
        self._labels = torch.arange(num) % classes
        self._names = train.class_names

    def measure(
        self,
        network: PurrceptionTransformer,
        objective: Objective,
        settings: SamplingConfig,
        seed: int | None = None,
    ) -> SampleMetrics:
        """Generate under ``settings``, from the same noise unless another seed is given, and measure."""
        noise = self.seed if seed is None else seed
        samples = sample_codes(network, objective, self._labels, settings, noise, batch_size=256)
        return self.measure_samples(samples)

    def measure_samples(self, samples: Generation) -> SampleMetrics:
        """Measure ``num`` generated images whose classes take turns."""
        codes, labels = samples.indices.numpy(), self._labels.numpy()
        images = CodeImages(self.num, lambda rows: (codes[rows], labels[rows]), self.tokenizer, self._names)
        return {**self._evaluator.measure(images).metrics, "nfe": samples.nfe}
