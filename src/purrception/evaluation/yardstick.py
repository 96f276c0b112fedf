"""A reference as an extractor sees it, with the floors that say what chance alone does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from purrception.data.classes import match_classes
from purrception.evaluation.extractors import Extractor, ImageClassifier
from purrception.evaluation.extractors.classifier import ClassifierExtractor, agreement
from purrception.evaluation.features import NO_CACHE, FeatureCache, ImageFeatures, extract_features
from purrception.evaluation.image_sets import ImageSet
from purrception.evaluation.metrics.all import Figures, measure_set
from purrception.evaluation.metrics.distances import frechet_distance
from purrception.evaluation.metrics.statistics import halves
from purrception.evaluation.references import Reference
from purrception.utils.errors import InputError

FEWEST_IN_A_HALF = 2


@dataclass(frozen=True)
class Measured:
    """A set of images and what came out."""

    title: str
    figures: Figures
    features: ImageFeatures
    class_names: tuple[str, ...]
    """Of the images, by label."""
    class_logits: torch.Tensor | None
    """The classifier's answers, ``[n, classes]``, the images' classes first, by their labels; none without a
    classifier, or where it knows other classes."""
    answer_names: tuple[str, ...]
    """Of the classes of these answers."""


class Yardstick:
    """What sets of images are measured with, one after the other.

    Args:
        reference: real images, or statistics of them.
        extractor: what images are seen through.
        classifier: that says whether an image is recognised as its label; none without classes.
        cache: of features.
        strict: refuse broken images.
        bootstrap: rounds of the intervals.
        seed: of bootstrap, subsets and halves.

    Raises:
        InputError: the reference's statistics are of another extractor, or it has fewer than two images.
    """

    def __init__(
        self,
        reference: Reference,
        extractor: Extractor,
        classifier: ImageClassifier | None = None,
        *,
        cache: FeatureCache = NO_CACHE,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> None:
        self.reference, self.extractor, self.classifier = reference, extractor, classifier
        self._cache, self._strict, self._bootstrap, self._seed = cache, strict, bootstrap, seed
        self.real = reference.features(extractor, cache, strict=strict)

    @property
    def accuracy(self) -> float | None:
        """Of the classifier on the reference, whose classes must be its; none without either."""
        if self.classifier is None or self.reference.images is None or self.real.labels is None:
            return None
        logits = self._answers(self.reference.images, self.real, "classifier")
        return None if logits is None else agreement(logits, self.real.labels)

    def measure(self, images: ImageSet, title: str = "generated") -> Measured:
        """Compare a set with the reference."""
        features = extract_features(images, self.extractor, self._cache, strict=self._strict, title=title)
        self._require_one_size(features, title)
        logits = self._answers(images, features, title)
        figures = measure_set(features, self.real, bootstrap=self._bootstrap, seed=self._seed, class_logits=logits)
        order = self._order(images.class_names)
        others = () if self.classifier is None else self.classifier.class_names
        answer_names = (*images.class_names, *(others[label] for label in order[len(images.class_names) :]))
        return Measured(title, figures, features, images.class_names, logits, answer_names)

    def _require_one_size(self, features: ImageFeatures, title: str) -> None:
        own, real = features.size, self.real.size
        if own and real and own != real and not self.extractor.any_size:
            raise InputError(
                f"{title} have {own[1]}×{own[0]} pixels, the reference {real[1]}×{real[0]}; {self.extractor.name} "
                "features compare images of one size: bring them to one, or take --features inception or dinov2"
            )

    def _answers(self, images: ImageSet, features: ImageFeatures, title: str) -> torch.Tensor | None:
        order = self._order(images.class_names)
        if self.classifier is None or not order:
            return None
        judge = ClassifierExtractor(self.classifier)
        if judge.channels == 1 and not images.grey:
            return None
        logits = features.logits
        if self.extractor.fingerprint != judge.fingerprint:
            logits = extract_features(images, judge, self._cache, strict=self._strict, title=title).logits
        return None if logits is None else logits[:, order]

    def _order(self, names: tuple[str, ...]) -> list[int]:
        """The classifier's labels: of each of a set's classes, then the others; empty if it knows other ones."""
        if self.classifier is None or not names:
            return []
        matching = match_classes(names, self.classifier.class_names)
        return [] if matching is None else [*matching, *sorted(set(range(self.classifier.classes)) - {*matching})]

    def halves(self, count: int) -> Figures | None:
        """Two halves of the reference against each other, of at most ``count`` images: chance alone.

        None where only statistics were saved, or too few images.
        """
        if self.real.features is None:
            return None
        rows = halves(len(self.real.features), count, self._seed)
        size = len(rows[0])
        if size < FEWEST_IN_A_HALF:
            return None
        one, other = map(self.real.subset, rows)
        figures = measure_set(one, other, bootstrap=self._bootstrap, seed=self._seed)
        spatial = self.real.spatial_halves
        if spatial is None or size < self.real.count // 2:  # those halves are whole, and not of this count
            return figures
        return replace(figures, spatial_frechet=frechet_distance(*spatial))

    def warnings(self, measured: list[Measured]) -> list[str]:
        """What a reader of the figures must know."""
        found = []
        real = self.real.statistics
        short = [one.figures.count for one in measured if one.features.statistics.rank_deficient]
        if short or real.rank_deficient:
            found.append(
                f"{min([*short, real.count])} images are too few for features of {real.dimension} dimensions: a "
                "covariance has no full rank, and the Fréchet distance says more of the count than of the images. "
                "KID is unbiased: go by it, or take more images."
            )
        for one in measured:
            found += self._unmatched(one)
        for title, features in (("reference", self.real), *((one.title, one.features) for one in measured)):
            if some := features.skipped:
                found.append(
                    f"{len(some)} image{'s'[: len(some) - 1]} of the {title} cannot be read and "
                    f"{'is' if len(some) == 1 else 'are'} left out: "
                    f"{'; '.join(f'{one.name}: {one.reason}' for one in some[:3])}{' …' * (len(some) > 3)}"
                )
        return found

    def _unmatched(self, one: Measured) -> list[str]:
        """What is left out of the figures of images because others have other classes."""
        known = {}
        if self.classifier is not None:
            known["the classifier, so that `recognised` is"] = self.classifier.class_names
        if self.reference.images is not None and len(self.reference.images.class_names) > 1:
            known["the reference, so that figures class by class are"] = self.reference.images.class_names
        return [
            f"The classes of the {one.title} ({_some(one.class_names)}) cannot be matched with those of {whose} "
            f"left out ({_some(names)}): they are matched by name, or by number where one side has no names."
            for whose, names in known.items()
            if one.class_names and match_classes(one.class_names, names) is None
        ]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)
