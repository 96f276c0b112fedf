"""Evaluation: how good images are, in metrics with their protocol, manifest and uncertainty."""

from purrception.evaluation.extractors.classifier import ClassifierConfig, ImageClassifier, train_classifier
from purrception.evaluation.metrics.fid import frechet_distance
from purrception.evaluation.metrics.likelihood import likelihood_bound
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.evaluation.report import Evaluation
from purrception.evaluation.run import evaluate, evaluate_images
from purrception.evaluation.settings import EvaluationConfig, Procedure
