"""Time and memory of an evaluation: `python benchmarks/evaluation.py --images 10000`.

Synthetic colour images of 32×32 pixels go through the features of a classifier, and every metric is computed
against `--reference` other images.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from purrception.evaluation import ImageClassifier
from purrception.evaluation.evaluator import Evaluator
from purrception.evaluation.extractors.classifier import ClassifierExtractor
from purrception.evaluation.image_sets import ImageSet
from purrception.evaluation.references import Reference

CLASSES, SIDE = 10, 32


class SyntheticImages:
    """Images of noise around a level that depends on their class, made when they are read."""

    class_names = tuple(map(str, range(CLASSES)))
    grey = False

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int]]:
        """Rows."""
        return [(self._image(row), row % CLASSES) for row in rows]

    def _image(self, row: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, row])
        level = 20 * (row % CLASSES)
        return (level + rng.integers(0, 70, (SIDE, SIDE, 3))).astype(np.uint8)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--bootstrap", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    classifier = ImageClassifier(3, SIDE, CLASSES, feature_dim=64).eval().requires_grad_(False)
    real: ImageSet = SyntheticImages(options.reference, seed=0)
    began = time.monotonic()
    evaluator = Evaluator(
        Reference("made up", "custom", real),
        ClassifierExtractor(classifier),
        classifier,
        bootstrap=options.bootstrap,
    )
    measured = evaluator.measure(SyntheticImages(options.images, seed=1))
    floor = evaluator.measure_halves(options.images)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.images} images, reference {options.reference}: {seconds:.1f} s, peak memory {peak:.0f} MB")
    print(measured.metrics, floor, sep="\n")


if __name__ == "__main__":
    main()
