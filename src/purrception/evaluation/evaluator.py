"""Sets of images measured against one reference, with the floors that chance alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from purrception.data.classes import match_classes
from purrception.evaluation.extractors import Extractor, ImageClassifier
from purrception.evaluation.extractors.classifier import ClassifierExtractor, agreement
from purrception.evaluation.features import KEPT, NO_CACHE, FeatureCache, ImageFeatures, extract_features
from purrception.evaluation.image_sets import ImageSet
from purrception.evaluation.metrics.fid import frechet_distance
from purrception.evaluation.metrics.measure import Metrics, measure
from purrception.evaluation.metrics.parts import PartRecognised, recognised_parts
from purrception.evaluation.metrics.statistics import halves
from purrception.evaluation.references import Reference
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class Measured:
    """A set of images with its features and metrics."""

    title: str
    images: ImageSet
    features: ImageFeatures
    metrics: Metrics
    class_logits: torch.Tensor | None
    """The classifier's logits, ``[n, classes]``: first those of the images' classes, by label, then the others;
    none without a classifier, or where it knows other classes."""
    logit_names: tuple[str, ...]
    """Names of the classes in that order."""

    @property
    def parts(self) -> tuple[PartRecognised, ...]:
        """How well each part of the classes' names is recognised; none where they have no parts."""
        labels = self.features.labels
        if self.class_logits is None or labels is None:
            return ()
        return recognised_parts(self.class_logits, labels, self.logit_names)


class Evaluator:
    """Measures sets of images against a reference.

    Args:
        reference: real images, or statistics of them.
        extractor: gives the features in which sets are compared.
        classifier: says whether an image is recognised as its label; none without classes.
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
        """The classifier's accuracy on the reference; none without a classifier that knows its classes."""
        if self._real_logits is None or self.real.labels is None:
            return None
        return agreement(self._real_logits, self.real.labels)

    @property
    def real_parts(self) -> tuple[PartRecognised, ...]:
        """How well the classifier recognises each part of the names of the reference's classes."""
        if self._real_logits is None or self.real.labels is None or self.reference.images is None:
            return ()
        names = self._logit_names(self.reference.images.class_names)
        return recognised_parts(self._real_logits, self.real.labels, names)

    @cached_property
    def _real_logits(self) -> torch.Tensor | None:
        if self.classifier is None or self.reference.images is None or self.real.labels is None:
            return None
        return self._class_logits(self.reference.images, self.real, "classifier")

    def features(self, images: ImageSet, title: str, keep: int = KEPT) -> ImageFeatures:
        """Features of a set of images, in which it is compared; see :func:`extract_features`."""
        return extract_features(images, self.extractor, self._cache, strict=self._strict, title=title, keep=keep)

    def measure(self, images: ImageSet, title: str = "generated") -> Measured:
        """Compare a set with the reference.

        Raises:
            InputError: an image cannot be read, and that is refused; the features are not finite, or compare only
                images of one size, and these have another than the reference's.
        """
        features = self.features(images, title)
        own, real = features.size, self.real.size
        if own and real and own != real and not self.extractor.any_size:
            raise InputError(
                f"{title} have {own[1]}×{own[0]} pixels, the reference {real[1]}×{real[0]}; {self.extractor.name} "
                "features compare images of one size: bring them to one, or take --features inception or dinov2"
            )
        logits = self._class_logits(images, features, title)
        metrics = measure(features, self.real, bootstrap=self._bootstrap, seed=self._seed, class_logits=logits)
        return Measured(title, images, features, metrics, logits, self._logit_names(images.class_names))

    def _logit_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """See :attr:`Measured.logit_names`, for images of classes of these names."""
        known = () if self.classifier is None else self.classifier.class_names
        return (*names, *(known[label] for label in self._classifier_labels(names)[len(names) :]))

    def _class_logits(self, images: ImageSet, features: ImageFeatures, title: str) -> torch.Tensor | None:
        """See :attr:`Measured.class_logits`."""
        labels = self._classifier_labels(images.class_names)
        if self.classifier is None or not labels:
            return None
        classifier = ClassifierExtractor(self.classifier)
        if classifier.channels == 1 and not images.grey:
            return None
        logits = features.logits
        if self.extractor.fingerprint != classifier.fingerprint:
            logits = extract_features(images, classifier, self._cache, strict=self._strict, title=title).logits
        return None if logits is None else logits[:, labels]

    def _classifier_labels(self, names: tuple[str, ...]) -> list[int]:
        """The classifier's labels: those of a set's classes first, then the others; empty if it lacks one."""
        if self.classifier is None or not names:
            return []
        matching = match_classes(names, self.classifier.class_names)
        return [] if matching is None else [*matching, *sorted(set(range(self.classifier.classes)) - {*matching})]

    def measure_halves(self, count: int) -> Metrics | None:
        """Two halves of the reference against each other, of at most ``count`` images: chance alone.

        None where only statistics were saved, or there are too few images.
        """
        if self.real.features is None:
            return None
        rows = halves(len(self.real.features), count, self._seed)
        size = len(rows[0])
        if size < 2:
            return None
        one, other = map(self.real.subset, rows)
        logits = None if self._real_logits is None else self._real_logits[rows[0]]
        metrics = measure(one, other, bootstrap=self._bootstrap, seed=self._seed, class_logits=logits)
        spatial = self.real.spatial_halves
        if spatial is not None and size >= self.real.count // 2:  # these halves are whole, not of another count
            metrics["spatial_frechet"] = frechet_distance(*spatial)
        return metrics

    def warnings(self, measured: Sequence[Measured]) -> list[str]:
        """What a reader of the metrics must know."""
        found = []
        real = self.real.statistics
        short = [one.metrics["count"] for one in measured if one.features.statistics.rank_deficient]
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
        """What is left out of the metrics because the other side has other classes."""
        names, known = one.images.class_names, {}
        if self.classifier is not None:
            known["the classifier, so that `recognised` is"] = self.classifier.class_names
        if self.reference.images is not None and len(self.reference.images.class_names) > 1:
            known["the reference, so that metrics class by class are"] = self.reference.images.class_names
        return [
            f"The classes of the {one.title} ({_some(names)}) cannot be matched with those of {whose} "
            f"left out ({_some(others)}): they are matched by name, or by number where one side has no names."
            for whose, others in known.items()
            if names and match_classes(names, others) is None
        ]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)
