"""Evaluation: how good images are, in metrics with their protocol, manifest and uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.evaluation.extractors.classifier import ImageClassifier, train_classifier
    from purrception.evaluation.metrics.fid import frechet_distance
    from purrception.evaluation.metrics.likelihood import likelihood_bound
    from purrception.evaluation.metrics.statistics import FeatureStatistics
    from purrception.evaluation.report import Evaluation
    from purrception.evaluation.run import evaluate, evaluate_images
    from purrception.evaluation.settings import ClassifierConfig, EvaluationConfig, Procedure

__getattr__, __dir__ = lazy_names(__name__)
