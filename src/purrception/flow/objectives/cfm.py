"""The continuous baselines: regression of the velocity, or of the end of the path."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from purrception.errors import InputError
from purrception.flow.guidance import Guidance
from purrception.flow.objectives.base import Losses, Network, Prediction, TrainingBatch
from purrception.flow.objectives.gaussian import GaussianObjective
from purrception.flow.posterior import Truncation
from purrception.flow.settings import SamplingConfig


class RegressionObjective(GaussianObjective):
    """A network that gives one vector per site. It has no posterior, hence no temperature and no entropy."""

    head_family = "regression"

    def check(self, network: Network, settings: SamplingConfig) -> None:
        """Refuse settings that need a posterior."""
        super().check(network, settings)
        if asked := settings.posterior_settings():
            given = ", ".join(f"{name} {value}" for name, value in asked.items())
            raise InputError(
                f"{given}: this acts on a posterior, and a {self.config.name!r} model has none; leave it out, "
                "or take a run of purrception or dfm"
            )

    def supported(self, settings: SamplingConfig) -> SamplingConfig:
        """The same settings with a neutral posterior."""
        return replace(settings, temperature=1.0, top_k=0, top_p=1.0, last_step="nearest")

    def _vector(self, network: Network, z: Tensor, t: float, labels: Tensor, guidance: Guidance | None) -> Tensor:
        """The network's output, guided: ``[B, D, h, w]``. The head is affine, so features are guided."""
        guidance = guidance or Guidance()
        return network.head(guidance.features(network, z, t, labels, network.num_classes))


class CFM(RegressionObjective):
    """Conditional flow matching: |v_θ − (z_1 − z_0)|² (Flow Matching, arXiv 2210.02747)."""

    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """Mean square error of the velocity, over batch, channels and sites."""
        point = self.path.sample(network.embed(batch.indices), batch.noise, batch.time)
        velocity = network.head(network(point.z_t, point.t, batch.labels))
        error = F.mse_loss(velocity, point.velocity)
        return Losses(error, {"square_error": error.detach()})

    def predict(
        self,
        network: Network,
        z: Tensor,
        t: float,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        truncation: Truncation | None = None,
        guidance: Guidance | None = None,
        uniforms: Tensor | None = None,
    ) -> Prediction:
        """μ = z + (1 − t) v, which needs no division."""
        velocity = self._vector(network, z, t, labels, guidance)
        return Prediction(z + (1 - t) * velocity)


class CFMEndpoint(RegressionObjective):
    """Flow matching that regresses the end of the path: |μ_θ − z_1|²."""

    def loss(self, network: Network, batch: TrainingBatch) -> Losses:
        """Mean square error of the end, over batch, channels and sites."""
        point = self.path.sample(network.embed(batch.indices), batch.noise, batch.time)
        end = network.head(network(point.z_t, point.t, batch.labels))
        error = F.mse_loss(end, point.z_1)
        return Losses(error, {"square_error": error.detach()})

    def predict(
        self,
        network: Network,
        z: Tensor,
        t: float,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        truncation: Truncation | None = None,
        guidance: Guidance | None = None,
        uniforms: Tensor | None = None,
    ) -> Prediction:
        """μ is the network's output."""
        return Prediction(self._vector(network, z, t, labels, guidance))
