"""Evaluation: how good images are, in numbers with their protocol, their manifest and their noise."""

from purrception.evaluation.extractors.classifier import ClassifierConfig, ImageClassifier, train_classifier
from purrception.evaluation.metrics.distances import frechet_distance
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.evaluation.report import Evaluation
from purrception.evaluation.run import evaluate, evaluate_images
from purrception.evaluation.settings import EvaluationConfig, Procedure

__all__ = [
    "ClassifierConfig",
    "Evaluation",
    "EvaluationConfig",
    "FeatureStatistics",
    "ImageClassifier",
    "Procedure",
    "evaluate",
    "evaluate_images",
    "frechet_distance",
    "train_classifier",
]
