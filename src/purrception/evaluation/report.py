"""A first evaluation: does a classifier recognise the images, and how far are they from real ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data import DataConfig, images_to_tensor, load_split
from purrception.errors import InputError
from purrception.evaluation.classifier import (
    ClassifierConfig,
    ImageClassifier,
    accuracy,
    extract_features,
    train_classifier,
)
from purrception.evaluation.metrics import FeatureStatistics, frechet_distance
from purrception.flow import SamplingConfig
from purrception.pipeline import PurrceptionPipeline
from purrception.tokenizers import fingerprint

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images are judged, and by which classifier."""

    num: int = 500
    """Generated images; classes take turns."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales to judge, one row of the report each."""
    seed: int = 0
    """Of the generated images."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Trained on the real training images."""

    def __post_init__(self) -> None:
        """Refuse an empty evaluation."""
        if self.num < 2 or not self.guidances:
            raise InputError(
                f"an evaluation needs at least 2 images and one guidance; given {self.num} "
                f"and {list(self.guidances)}"
            )


@dataclass(frozen=True)
class Row:
    """Figures of one set of generated images."""

    guidance: float
    nfe: int
    recognised: float
    """Share that the classifier recognises as the class asked for."""
    frechet: float
    """Fréchet distance to the real test images, in the classifier's features."""


@dataclass(frozen=True)
class Evaluation:
    """Figures with their protocol."""

    protocol: str
    num: int
    seed: int
    sampling: SamplingConfig
    """Settings that the rows share, but for guidance."""
    tokenizer_hash: str
    transformer_hash: str
    real_test_images: int
    classifier_accuracy: float
    """On the real test images."""
    frechet_floor: float
    """The distance between real training and real test images: what a perfect model could reach."""
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """The report as text."""
        used = self.sampling
        lines = [
            "# Evaluation",
            "",
            f"{self.protocol}. {self.num} images, seed {self.seed}; {used.solver}, {used.steps} steps "
            f"on the {used.grid} grid, temperature {used.temperature}.",
            "",
            f"Classifier accuracy on {self.real_test_images} real test images: {self.classifier_accuracy:.1%}.",
            "",
            "| images | guidance | NFE | recognised | Fréchet distance | times the floor |",
            "|---|---|---|---|---|---|",
            f"| real training images (floor) | – | – | – | {self.frechet_floor:.3f} | 1.00 |",
        ]
        lines += [
            f"| generated | {row.guidance:g} | {row.nfe} | {row.recognised:.1%} | {row.frechet:.3f} | "
            f"{row.frechet / self.frechet_floor:.2f} |"
            for row in self.rows
        ]
        return "\n".join(lines) + "\n"


def evaluate(
    pipeline: PurrceptionPipeline,
    data: DataConfig,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    folder: Path,
) -> Evaluation:
    """Judge generated images against the real ones of ``data``; write JSON and Markdown to ``folder``.

    A classifier learns the real training images; its accuracy on the real test images says how far it can
    be trusted. Its features give the Fréchet distance of generated to real test images, beside the same
    distance of real training to real test images.

    Raises:
        InputError: the data has no classes, or no test images.
    """
    images, labels = load_split(data, "train")
    test_images, test_labels = load_split(data, "test")
    classes = pipeline.transformer.num_classes
    if classes < 2:
        raise InputError("this evaluation needs a model with at least 2 classes: it judges by a classifier")
    classifier = train_classifier(images, labels, classes, config.classifier, config.seed)
    test = FeatureStatistics.of(extract_features(classifier, test_images))
    floor = frechet_distance(FeatureStatistics.of(extract_features(classifier, images)), test)
    wanted = torch.arange(config.num) % classes
    rows = [
        _judge(pipeline, classifier, test, wanted, guidance, sampling, config.seed)
        for guidance in config.guidances
    ]
    result = Evaluation(
        protocol="classifier features; reference: real test images",
        num=config.num,
        seed=config.seed,
        sampling=sampling,
        tokenizer_hash=pipeline.tokenizer.fingerprint,
        transformer_hash=fingerprint(pipeline.transformer),
        real_test_images=len(test_images),
        classifier_accuracy=accuracy(classifier, test_images, test_labels),
        frechet_floor=floor,
        rows=tuple(rows),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT_JSON).write_text(json.dumps(asdict(result), indent=2))
    (folder / REPORT_MARKDOWN).write_text(result.markdown())
    return result


def _judge(
    pipeline: PurrceptionPipeline,
    classifier: ImageClassifier,
    test: FeatureStatistics,
    wanted: Tensor,
    guidance: float,
    sampling: SamplingConfig,
    seed: int,
) -> Row:
    out = pipeline.sample(wanted.tolist(), replace(sampling, guidance=guidance), seed)
    arrays = [np.asarray(image) for image in out.images]
    made = images_to_tensor([array.reshape(*array.shape[:2], -1) for array in arrays])
    return Row(
        guidance=guidance,
        nfe=out.nfe,
        recognised=accuracy(classifier, made, wanted),
        frechet=frechet_distance(FeatureStatistics.of(extract_features(classifier, made)), test),
    )
