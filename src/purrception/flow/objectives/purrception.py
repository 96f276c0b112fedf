"""The paper's objective: a categorical posterior per site, trained with cross-entropy."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from purrception.flow.guidance import Guidance
from purrception.flow.objectives.base import Losses, Network, Objective, TrainingBatch
from purrception.flow.paths import LinearPath
from purrception.flow.posterior import Posterior


class Purrception(Objective):
    """Variational flow matching with a mean-field categorical posterior (arXiv 2510.01478, section 4)."""

    path = LinearPath()

    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """−ln π_θ(c | z_t) + λ_z logsumexp(logits)², mean over batch and sites, in nats."""
        point = self.path.sample(network.embed(batch.indices), batch.noise, batch.time)
        features = network(point.z_t, point.t, batch.labels)
        sites = network.head.nll(features, batch.indices)
        cross_entropy = sites.nll.mean()
        z_loss = self.config.z_loss * sites.logsumexp.square().mean()
        figures = {
            "cross_entropy": cross_entropy,
            "z_loss": z_loss,
            "logsumexp": sites.logsumexp.mean(),
            "accuracy": sites.correct.mean(),
        }
        return Losses(cross_entropy + z_loss, {name: value.detach() for name, value in figures.items()})

    def predict(
        self,
        network: Network,
        z: Tensor,
        t: float,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
    ) -> Posterior:
        """The posterior at temperature τ of the guided network; its mean is the data prediction."""
        head = partial(network.head.posterior, temperature=temperature)
        return (guidance or Guidance()).posterior(network, head, z, t, labels, network.num_classes)
