"""Generated images against real ones: one judge for comparisons and sweeps, by the figures of ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from purrception.data import DataConfig
from purrception.evaluation.extractors import ImageClassifier, Ingredients, build_extractor
from purrception.evaluation.extractors.classifier import ClassifierConfig
from purrception.evaluation.image_sets import CodeImages
from purrception.evaluation.learning import learn_classifier, require_classes, split_images
from purrception.evaluation.metrics.all import Figures
from purrception.evaluation.references import open_reference
from purrception.evaluation.yardstick import Yardstick
from purrception.flow import Generation, Objective, SamplingConfig
from purrception.generation.sampler import sample_codes
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.utils.errors import InputError

ROUNDS = 50
"""Of the bootstrap of each measurement."""


@dataclass(frozen=True)
class Quality:
    """Figures of one set of generated images; distances are to the real test images."""

    frechet: float
    frechet_low: float
    """Bootstrap interval of the distance, 95 %: its lower end."""
    frechet_high: float
    """And its upper end."""
    kid: float
    """Unbiased kernel distance: unlike the Fréchet distance it does not fall with the number of images."""
    precision: float
    """Share of generated images on the manifold of the real ones."""
    recall: float
    """Share of real images on the manifold of the generated ones."""
    density: float
    """Precision that an outlier among the real images does not inflate."""
    coverage: float
    """Share of real images with a generated one beside them."""
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
        self.tokenizer, self.seed, self.features, self.num = tokenizer, seed, features, num
        require_classes(classes)
        train, reference = split_images(data, "train"), open_reference("test", data, tokenizer)
        self.classifier: ImageClassifier = learn_classifier(train, classes, classifier, seed)
        extractor = build_extractor(features, Ingredients(self.classifier, sets=(reference, train)))
        self._yardstick = Yardstick(reference, extractor, self.classifier, bootstrap=ROUNDS, seed=seed)
        self.floor_quality = _require_overlap(
            self._yardstick.measure(split_images(data, "train", num), "real training images").figures
        )
        """Real training images, as many as are generated, against the real test images."""
        self.floor = self.floor_quality.frechet
        """The distance of those: what a perfect model could reach at this count."""
        accuracy = self._yardstick.accuracy
        assert accuracy is not None
        self.accuracy = accuracy
        """Of the classifier on real test images."""
        self.real_images = self._yardstick.real.count
        self._labels = torch.arange(num) % classes
        self._names = train.class_names

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
        return self.judge(made)

    def judge(self, made: Generation) -> Quality:
        """Judge ``num`` generated images that are there; their classes take turns."""
        codes, labels = made.indices.numpy(), self._labels.numpy()
        images = CodeImages(self.num, lambda rows: (codes[rows], labels[rows]), self.tokenizer, self._names)
        figures = _require_overlap(self._yardstick.measure(images).figures)
        assert figures.interval is not None
        assert figures.kid is not None
        assert figures.overlap is not None
        assert figures.recognised is not None
        return Quality(
            frechet=figures.frechet,
            frechet_low=figures.interval.low,
            frechet_high=figures.interval.high,
            kid=figures.kid.mean,
            precision=figures.overlap.precision,
            recall=figures.overlap.recall,
            density=figures.overlap.density,
            coverage=figures.overlap.coverage,
            recognised=figures.recognised,
            nfe=made.nfe,
        )


def _require_overlap(figures: Figures) -> Figures:
    if figures.overlap is None:
        raise InputError("precision and recall need more than 3 images a set, generated and real")
    return figures
