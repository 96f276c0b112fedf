"""What a result rests on: everything that another person needs to get the same numbers."""

from __future__ import annotations

from typing import Any

from purrception.evaluation.evaluator import Evaluator
from purrception.evaluation.extractors.classifier import ClassifierExtractor
from purrception.flow import SamplingConfig
from purrception.utils.packages import versions

PACKAGES = ("torch", "numpy", "diffusers", "pillow", "scikit-learn", "transformers")


def build_manifest(
    evaluator: Evaluator, images: dict[str, Any], count: int, classifier_origin: str
) -> dict[str, Any]:
    """The manifest of an evaluation, ready for JSON.

    Args:
        evaluator: reference, extractor and classifier.
        images: how the images were generated, or where they were found.
        count: how many of them are evaluated.
        classifier_origin: where the classifier comes from.
    """
    classifier = evaluator.classifier
    return {
        "images": images,
        "count": count,
        "reference": {
            "title": evaluator.reference.title,
            "protocol": evaluator.reference.protocol,
            "content": evaluator.real.content,
            "count": evaluator.real.count,
        },
        "features": {
            "name": evaluator.extractor.name,
            "dimension": evaluator.real.statistics.dimension,
            "fingerprint": evaluator.extractor.fingerprint,
        },
        "classifier": {
            "origin": classifier_origin,
            "fingerprint": ClassifierExtractor(classifier).fingerprint if classifier is not None else None,
        },
        "versions": versions(*PACKAGES),
    }


def current_names(sampling: dict[str, Any]) -> dict[str, Any]:
    """Sampling settings that a file holds, under the names that they have today."""
    return {SamplingConfig.RENAMED.get(name, name): value for name, value in sampling.items()}


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys with dots between them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
