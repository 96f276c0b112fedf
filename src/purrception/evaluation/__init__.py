"""Evaluation: how good the generated images are, in numbers with their protocol."""

from purrception.evaluation.classifier import ClassifierConfig, ImageClassifier, train_classifier
from purrception.evaluation.metrics import FeatureStatistics, frechet_distance
from purrception.evaluation.report import Evaluation, EvaluationConfig, evaluate

__all__ = [
    "ClassifierConfig",
    "Evaluation",
    "EvaluationConfig",
    "FeatureStatistics",
    "ImageClassifier",
    "evaluate",
    "frechet_distance",
    "train_classifier",
]
