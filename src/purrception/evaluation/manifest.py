"""What a result is a result of: everything that another person needs to get the same figures."""

from __future__ import annotations

from typing import Any

from purrception.evaluation.extractors.classifier import ClassifierExtractor
from purrception.evaluation.yardstick import Yardstick
from purrception.utils.packages import versions

PACKAGES = ("torch", "numpy", "diffusers", "pillow", "scikit-learn", "transformers")


def build_manifest(yardstick: Yardstick, images: dict[str, Any], count: int, classes: str) -> dict[str, Any]:
    """The manifest of an evaluation, ready for JSON.

    Args:
        yardstick: reference, extractor and classifier.
        images: what the judged images are: how they were generated, or where they were found.
        count: how many of them are judged.
        classes: what recognised them.
    """
    classifier = yardstick.classifier
    return {
        "images": images,
        "count": count,
        "reference": {
            "title": yardstick.reference.title,
            "protocol": yardstick.reference.protocol,
            "content": yardstick.real.content,
            "count": yardstick.real.count,
        },
        "features": {
            "name": yardstick.extractor.name,
            "dimension": yardstick.real.statistics.dimension,
            "fingerprint": yardstick.extractor.fingerprint,
        },
        "classifier": {
            "origin": classes,
            "fingerprint": ClassifierExtractor(classifier).fingerprint if classifier is not None else None,
        },
        "versions": versions(*PACKAGES),
    }


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys with dots between them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
