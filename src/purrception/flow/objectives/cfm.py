"""The continuous baselines: regression of the velocity, or of the end of the path."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from purrception.flow.network import DEFAULT_OPTIONS, Losses, Network, PredictionOptions, VectorNetwork
from purrception.flow.objectives.base import Prediction, TrainingBatch
from purrception.flow.objectives.gaussian import GaussianObjective
from purrception.flow.paths import PathSample
from purrception.flow.settings import SamplingConfig
from purrception.utils.errors import InputError


class RegressionObjective(GaussianObjective):
    """Regression of one vector per site. There is no posterior, hence no temperature and no entropy."""

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
        return replace(super().supported(settings), temperature=1.0, top_k=0, top_p=1.0, last_step="nearest")

    @abstractmethod
    def target(self, point: PathSample) -> Tensor:
        """What the network's output should equal, ``[B, D, h, w]``."""

    @abstractmethod
    def to_mean(self, output: Tensor, z: Tensor, t: float) -> Tensor:
        """The data prediction of an output at ``z`` and ``t``, ``[B, D, h, w]``."""

    def loss(self, network: VectorNetwork, batch: TrainingBatch) -> Losses:
        """Mean square error over batch, channels and sites."""
        point = self.path.sample(network.embed(batch.indices), batch.noise, batch.time)
        output = network.head(network(point.z_t, point.t, batch.labels))
        error = F.mse_loss(output, self.target(point))
        return Losses(error, {"square_error": error.detach()})

    def predict(
        self,
        network: VectorNetwork,
        z: Tensor,
        t: float,
        labels: Tensor,
        options: PredictionOptions = DEFAULT_OPTIONS,
    ) -> Prediction:
        """The data prediction; the head is affine, so guiding its input guides its output."""
        features = options.guidance.features(network, z, t, labels, network.num_classes)
        return Prediction(self.to_mean(network.head(features), z, t))


class CFM(RegressionObjective):
    """Conditional flow matching: ‖v_θ − (z_1 − z_0)‖² (Flow Matching, arXiv 2210.02747)."""

    def target(self, point: PathSample) -> Tensor:
        """The velocity of the path."""
        return point.velocity

    def to_mean(self, output: Tensor, z: Tensor, t: float) -> Tensor:
        """μ = z + (1 − t) v, which needs no division."""
        return z + (1 - t) * output


class CFMEndpoint(RegressionObjective):
    """Flow matching that regresses the end of the path: ‖μ_θ − z_1‖²."""

    def target(self, point: PathSample) -> Tensor:
        """The data."""
        return point.z_1

    def to_mean(self, output: Tensor, z: Tensor, t: float) -> Tensor:
        """μ is the output."""
        return output
