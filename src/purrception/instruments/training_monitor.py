"""Samples of a network while it trains, metrics of them, and warnings when training goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.flow import Objective, SamplingConfig
from purrception.generation.sampler import sample_codes
from purrception.instruments.calibration import Calibration, SiteScores
from purrception.instruments.codebook_use import CodebookUse, CodeClassifier, histogram
from purrception.instruments.drift import drift_over_time
from purrception.instruments.posteriors import images_at_once, network_posterior
from purrception.models import CategoricalHead, PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training.batches import to_device, validation_batch
from purrception.training.loop import SampleReport
from purrception.utils.visualisation import tile_images

GRID_ROWS, GRID_COLUMNS = 8, 10
LARGEST_STEPS = 25
"""Steps of the solver for a sample, at most."""
ROWS, TIMES = 64, (0.2, 0.4, 0.6, 0.8)
"""Held-out images, and the times at which the posterior of each is measured."""
REFERENCE_ROWS = 4096
"""Training images that samples are compared with, at most."""
QUIET_SHARE = 0.2
"""Share of training at its start in which no warning is given, because little has been learned yet."""


@dataclass(frozen=True)
class Check:
    """A sign of trouble in the metrics."""

    name: str
    """The metric that it looks at."""
    fails: Callable[[dict[str, float]], bool]
    advice: str
    """What is wrong and where to look, with names of metrics in braces."""


CHECKS = (
    Check(
        "sample_perplexity",
        lambda metrics: metrics["sample_perplexity"] < 0.5 * metrics["data_perplexity"],
        "samples use {sample_perplexity:.0f} codes in effect where as many real images use {data_perplexity:.0f}: "
        "look at samples/ for images that repeat, and at 'diagnose --only codebook'",
    ),
    Check(
        "class_agreement",
        lambda metrics: metrics["class_agreement"] < 0.5 * metrics["data_class_agreement"],
        "{class_agreement:.0%} of samples look like the class asked for, by their codes, where "
        "{data_class_agreement:.0%} of real images do: look at samples/, and at training.label_dropout",
    ),
    Check(
        "calibration_error",
        lambda metrics: metrics["calibration_error"] > 0.15,
        "on held-out images the posterior is off by {calibration_error:.2f} (says {confidence:.2f}, right "
        "{accuracy:.2f}): overfitting? Look at validation_loss, and at 'diagnose --only calibration' for a "
        "temperature",
    ),
    Check(
        "logsumexp_at_most",
        lambda metrics: metrics["logsumexp_at_most"] > 50,
        "logits drift: |logsumexp| reaches {logsumexp_at_most:.0f}: raise objective.z_loss, and look at "
        "'diagnose --only drift'",
    ),
)


def shown_classes(classes: int, columns: int) -> Tensor:
    """The class of each column, long ``[columns]``, spread evenly over all ``classes``; without any, 0.

    The first ones would be alike: of ImageNet's, ten kinds of fish and fowl.
    """
    return torch.arange(columns) * classes // columns


@dataclass
class TrainingMonitor:
    """Draws samples while a network trains, measures them, and warns when a check first fails.

    It is the trainer's ``on_sample``. Samples come from the same noise every time, with a column for each class,
    or for ten of them.

    Args:
        objective: the objective that the network is trained with.
        tokenizer: decodes the samples.
        train: training shards, which samples are compared with.
        held_out: shards that are not trained on, if there are any.
        settings: how to sample; at most 25 steps are taken.
        steps: steps of the whole training.
        seed: seed of the samples and of the held-out noise.
    """

    objective: Objective
    tokenizer: VQTokenizer
    train: TokenDataset
    held_out: TokenDataset | None
    settings: SamplingConfig
    steps: int
    seed: int
    _failing: set[str] = field(default_factory=set)

    def __call__(self, step: int, network: PurrceptionTransformer) -> SampleReport:
        """Sample ``network``, which has averaged weights and is in evaluation mode, at a step of training."""
        classes = self.train.manifest.num_classes
        columns = min(classes, GRID_COLUMNS) or GRID_ROWS
        labels = shown_classes(classes, columns).repeat(GRID_ROWS)
        settings = replace(
            self.settings, num_inference_steps=min(self.settings.num_inference_steps, LARGEST_STEPS)
        )
        supported = self.objective.supported(settings)
        made = sample_codes(
            network, self.objective, labels, supported, self.seed, batch_size=len(labels), across_processes=True
        )
        images = self.tokenizer.decode_images(made.indices)
        image = tile_images(images, columns=columns, scale=max(1, 64 // images.shape[1]))
        metrics = self.measure(network, made.indices, labels)
        return SampleReport(
            image, {f"watch/{name}": value for name, value in metrics.items()}, self.warn(step, metrics)
        )

    def measure(self, network: PurrceptionTransformer, indices: Tensor, labels: Tensor) -> dict[str, float]:
        """Metrics of samples and of the posterior on held-out images.

        Args:
            network: in evaluation mode.
            indices: codes of the samples, long ``[n, h, w]``.
            labels: classes they were sampled for, long ``[n]``.
        """
        metrics = self._measure_samples(indices.cpu(), labels.cpu())
        if self.held_out is not None and isinstance(network.head, CategoricalHead):
            metrics |= self._measure_posterior(network, self.held_out)
        return metrics

    def warn(self, step: int, metrics: dict[str, float]) -> tuple[str, ...]:
        """Advice for each check that fails now and did not fail the last time; none early in training."""
        failing = {check.name: check for check in CHECKS if check.name in metrics and check.fails(metrics)}
        if step < QUIET_SHARE * self.steps:
            failing = {}
        warnings = tuple(
            check.advice.format(**metrics) for name, check in failing.items() if name not in self._failing
        )
        self._failing = set(failing)
        return warnings

    @cached_property
    def _reference(self) -> tuple[Tensor, Tensor]:
        """Training codes and labels, read when first needed, after training has gone through its shards."""
        indices, labels = self.train.rows(spread_rows(len(self.train), REFERENCE_ROWS))
        return torch.from_numpy(indices), torch.from_numpy(labels)

    def _measure_samples(self, indices: Tensor, labels: Tensor) -> dict[str, float]:
        manifest, (train, train_labels) = self.train.manifest, self._reference
        # As many real images as samples, because perplexity grows with the number of images.
        rows = torch.from_numpy(spread_rows(len(train), len(indices)))
        real, codes = train[rows], manifest.codebook_size
        use = CodebookUse.of(histogram(real, codes), histogram(indices, codes))
        metrics = {
            "sample_perplexity": use.sample_perplexity,
            "data_perplexity": use.data_perplexity,
            "sample_codes": float(use.sample_codes),
            "code_divergence": use.divergence,
        }
        if manifest.num_classes > 1:
            classifier = CodeClassifier(train, train_labels, manifest.num_classes, codes)
            real_agreement = classifier.predict(real) == train_labels[rows]
            agreement = classifier.predict(indices) == labels
            metrics["class_agreement"] = float(agreement.double().mean())
            metrics["data_class_agreement"] = float(real_agreement.double().mean())
        return metrics

    @torch.no_grad()
    def _measure_posterior(self, network: PurrceptionTransformer, held_out: TokenDataset) -> dict[str, float]:
        rows = min(ROWS, len(held_out), images_at_once(network))
        batch = to_device(validation_batch(held_out, self.seed, 0, rows, rows), network.device)
        scores = []
        for t in TIMES:
            state = self.objective.state_at(network, batch.indices, batch.noise, t)
            log_posterior = network_posterior(network, batch.labels)(state.z, t)
            scores.append(SiteScores.of(log_posterior[state.open], batch.indices[state.open]))
        drift = drift_over_time(network, self.objective, batch, TIMES, z_loss=0.0)
        calibration = Calibration.of(SiteScores.join(scores))
        return {
            "calibration_error": calibration.error,
            "confidence": calibration.confidence,
            "accuracy": calibration.accuracy,
            "entropy": calibration.entropy,
            "logsumexp_at_most": max(one.largest for one in drift),
        }
