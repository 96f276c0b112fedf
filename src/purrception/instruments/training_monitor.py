"""Signs of trouble while a network trains: cheap enough for every sample grid, each with advice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.flow import Objective
from purrception.instruments.calibration import Calibration, SiteScores
from purrception.instruments.codebook_use import CodebookUse, CodeClassifier, histogram
from purrception.instruments.posteriors import images_at_once, network_posterior
from purrception.models import CategoricalHead, PurrceptionTransformer
from purrception.tokens import TokenDataset
from purrception.training.batches import to_device, validation_batch

ROWS, TIMES = 64, (0.2, 0.4, 0.6, 0.8)
"""Held-out images, and the times at which each is seen."""
REFERENCE_ROWS = 4096
"""Training grids that samples are compared with, at most."""
QUIET_SHARE = 0.2
"""Of training, at its start: nothing has been learned yet, and nothing is said."""


@dataclass(frozen=True)
class Alarm:
    """One sign of trouble."""

    name: str
    """Of the figure."""
    is_bad: Callable[[dict[str, float]], bool]
    advice: str
    """What is seen and where to look, with the figures' names in braces."""


ALARMS = (
    Alarm(
        "sample_perplexity",
        lambda figures: figures["sample_perplexity"] < 0.5 * figures["data_perplexity"],
        "samples use {sample_perplexity:.0f} codes in effect where as many real images use {data_perplexity:.0f}: "
        "look at samples/ for images that repeat, and at 'diagnose --only codebook'",
    ),
    Alarm(
        "class_agreement",
        lambda figures: figures["class_agreement"] < 0.5 * figures["data_class_agreement"],
        "{class_agreement:.0%} of samples look like the class asked for, by their codes, where "
        "{data_class_agreement:.0%} of real images do: look at samples/, and at training.label_dropout",
    ),
    Alarm(
        "calibration_error",
        lambda figures: figures["calibration_error"] > 0.15,
        "on held-out images the posterior is off by {calibration_error:.2f} (says {confidence:.2f}, right "
        "{accuracy:.2f}): overfitting? Look at validation_loss, and at 'diagnose --only calibration' for a "
        "temperature",
    ),
    Alarm(
        "logsumexp_at_most",
        lambda figures: figures["logsumexp_at_most"] > 50,
        "logits drift: |logsumexp| reaches {logsumexp_at_most:.0f}: raise objective.z_loss, and look at "
        "'diagnose --only drift'",
    ),
)


@dataclass
class Watch:
    """Looks at a network and at the codes it just sampled; says a line when a sign of trouble first shows.

    Args:
        objective: what it is trained with.
        train: grids that samples are held against.
        held_out: grids it is not trained on, if there are any.
        steps: of the whole training.
        seed: of the held-out noise.
    """

    objective: Objective
    train: TokenDataset
    held_out: TokenDataset | None
    steps: int
    seed: int
    _raised: set[str] = field(default_factory=set)

    @cached_property
    def _reference(self) -> tuple[Tensor, Tensor]:
        """Training grids and labels; read at the first look, when training has been through its shards."""
        indices, labels = self.train.rows(spread_rows(len(self.train), REFERENCE_ROWS))
        return torch.from_numpy(indices), torch.from_numpy(labels)

    def look(self, step: int, network: PurrceptionTransformer, indices: Tensor, labels: Tensor) -> Watched:
        """Figures for the metrics, and warnings that are new.

        Args:
            step: of training.
            network: with averaged weights, in evaluation mode.
            indices: codes just sampled, long ``[n, h, w]``.
            labels: the classes that were asked for, long ``[n]``.
        """
        figures = self._of_samples(indices.cpu(), labels.cpu())
        if self.held_out is not None and isinstance(network.head, CategoricalHead):
            figures |= self._of_posterior(network, self.held_out)
        raised = {alarm.name: alarm for alarm in ALARMS if alarm.name in figures and alarm.is_bad(figures)}
        if step < QUIET_SHARE * self.steps:
            raised = {}
        warnings = tuple(raised[name].advice.format(**figures) for name in raised if name not in self._raised)
        self._raised = set(raised)
        return Watched({f"watch/{name}": value for name, value in figures.items()}, warnings)

    def _of_samples(self, indices: Tensor, labels: Tensor) -> dict[str, float]:
        # As many real grids: perplexity grows with the number of images.
        manifest, (grids, classes) = self.train.manifest, self._reference
        rows = torch.from_numpy(spread_rows(len(grids), len(indices)))
        real, codes = grids[rows], manifest.codebook_size
        use = CodebookUse.of(histogram(real, codes), histogram(indices, codes))
        figures = {
            "sample_perplexity": use.sample_perplexity,
            "data_perplexity": use.data_perplexity,
            "sample_codes": float(use.sample_codes),
            "code_divergence": use.divergence,
        }
        if manifest.num_classes > 1:
            classifier = CodeClassifier.of(grids, classes, manifest.num_classes, codes)
            own = classifier.classes_of(real) == classes[rows]
            agreement = classifier.classes_of(indices) == labels
            figures["class_agreement"] = float(agreement.double().mean())
            figures["data_class_agreement"] = float(own.double().mean())
        return figures

    @torch.no_grad()
    def _of_posterior(self, network: PurrceptionTransformer, held_out: TokenDataset) -> dict[str, float]:
        rows = min(ROWS, len(held_out), images_at_once(network))
        batch = to_device(validation_batch(held_out, self.seed, 0, rows, rows), network.device)
        scores, drifts = [], []
        for t in TIMES:
            state = self.objective.state_at(network, batch.indices, batch.noise, t)
            said = network_posterior(network, batch.labels)(state.z, t)
            scores.append(SiteScores.of(said[state.open], batch.indices[state.open]))
            features = network(state.z, torch.full_like(batch.time, t), batch.labels)
            assert isinstance(network.head, CategoricalHead)
            drifts.append(float(network.head.nll(features, batch.indices).logsumexp.abs().max()))
        found = Calibration.of(SiteScores.join(scores))
        return {
            "calibration_error": found.error,
            "confidence": found.confidence,
            "accuracy": found.accuracy,
            "entropy": found.entropy,
            "logsumexp_at_most": max(drifts),
        }


@dataclass(frozen=True)
class Watched:
    """What a look saw."""

    figures: dict[str, float]
    """By name, for the metrics."""
    warnings: tuple[str, ...]
    """Lines for a person."""
