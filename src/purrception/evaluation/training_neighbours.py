"""Generated images beside the training images nearest to them, by features and by codes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from purrception.data import spread_rows
from purrception.evaluation.evaluator import Evaluator, Measured
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.generation import GeneratedCodes
from purrception.evaluation.image_sets import CodeImages, ImageSet
from purrception.evaluation.metrics.memorisation import (
    Distances,
    Memorisation,
    Nearest,
    memorisation,
    nearest_by_codes,
    nearest_by_features,
)
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset

MOST_IMAGES = 10_000
"""Generated and held-out images whose nearest training images are searched; of more, they are drawn by a key."""
NOT_ASKED = "no training image is searched (--training-images 0)"
NO_IMAGES = "by features: the images of the run's data are not here"
NO_TRAINING_CODES = "by codes: the token shards of the training images are not here"
NOTHING_HELD_OUT = "by features and by codes: no token shards of held-out images are here to compare with"


@dataclass(frozen=True)
class ShownPairs:
    """Generated images and the training image nearest to each by features, the nearest pair first."""

    generated: ImageSet
    training: ImageSet
    generated_rows: tuple[int, ...]
    training_rows: tuple[int, ...]


class TrainingNeighbours:
    """Searches the training images that are nearest to generated ones.

    Generated and held-out images have both passed through the tokenizer, so that its loss is in both of the
    distances that are compared; the images that they are near to are as they are.

    Args:
        evaluator: in whose features images are compared.
        images: of the training split and of the test split; none where they are not here.
        tokenizer: decodes the held-out codes.
        train: shards of the training images; none where they are not here.
        held_out: shards of the held-out images, if there are any.
        most: training images whose codes are compared, at most; 0: nothing is searched.
        device: where codes are compared.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        images: tuple[ImageSet, ImageSet] | None,
        tokenizer: VQTokenizer,
        train: TokenDataset | None,
        held_out: TokenDataset | None,
        most: int,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self._device, self._seed = device, seed
        self.rows: list[dict[str, Any]] = []
        """What was measured, for the report."""
        self._images: ImageSet | None = None
        self._codes: tuple[TokenDataset, TokenDataset] | None = None
        self.missing: tuple[str, ...] = (NOT_ASKED,)
        """What is not measured, and why."""
        if not most:
            return
        if held_out is None or len(held_out) < 2:
            self.missing = (NOTHING_HELD_OUT,)
            return
        self.missing = (NO_IMAGES,) * (images is None) + (NO_TRAINING_CODES,) * (train is None)
        self._held_out_rows = spread_rows(len(held_out), MOST_IMAGES)
        codes = held_out.rows(self._held_out_rows)[0]
        if images is not None:
            self._images, test = images
            decoded = CodeImages(len(codes), lambda rows: (codes[rows], np.zeros_like(rows)), tokenizer)
            self._training = evaluator.features(self._images, "training images", keep=len(self._images))
            self._test = _features(evaluator.features(test, "held-out images"))
            passed = _features(evaluator.features(decoded, "held-out images, decoded"))
            self._expected = nearest_by_features(passed, _features(self._training)).distance
        if train is not None:
            self._codes, self._train_rows = (train, held_out), spread_rows(len(train), most)
            self._expected_of_codes = self._nearest_code(torch.from_numpy(codes), 0).distance

    def _nearest_code(self, codes: torch.Tensor, which: int) -> Nearest:
        """The nearest of the training images, or of the held-out ones for ``which`` = 1."""
        assert self._codes is not None
        rows = (self._train_rows, self._held_out_rows)[which]
        return nearest_by_codes(codes, self._codes[which], rows, self._device)

    def measure(self, generated: Measured, codes: GeneratedCodes, guidance: float) -> ShownPairs | None:
        """Search among the training images, and note in :attr:`rows` what that says of memorisation.

        Args:
            generated: a set of images.
            codes: those of the same images.
            guidance: at which they were generated.
        """
        found: dict[str, Memorisation] = {}
        pairs = None
        if self._images is not None:
            features, own = _features(generated.features), generated.features.rows
            training = self._training.rows
            assert own is not None
            assert training is not None
            rows = torch.from_numpy(spread_rows(len(features), MOST_IMAGES))
            nearest = nearest_by_features(features[rows], _features(self._training))
            between = nearest_by_features(features[rows], self._test)
            distances = Distances(nearest, self._expected, between, len(training), len(self._test))
            found["features"] = memorisation(distances, self._seed)
            order = nearest.distance.argsort(stable=True)
            shown = own[rows[order]].tolist(), training[nearest.row[order]].tolist()
            pairs = ShownPairs(generated.images, self._images, tuple(shown[0]), tuple(shown[1]))
        if self._codes is not None:
            indices = torch.from_numpy(codes.rows(spread_rows(codes.num, MOST_IMAGES))[0])
            nearest, between = (self._nearest_code(indices, which) for which in (0, 1))
            counts = len(self._train_rows), len(self._held_out_rows)
            distances = Distances(nearest, self._expected_of_codes, between, *counts)
            found["codes"] = memorisation(distances, self._seed)
        for by, one in found.items():
            self.rows.append({"guidance": guidance, "by": by, **asdict(one), "verdict": one.verdict})
        return pairs


def _features(images: ImageFeatures) -> torch.Tensor:
    assert images.features is not None
    return images.features
