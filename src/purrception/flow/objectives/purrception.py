"""The paper's objective: a categorical posterior per site, trained with cross-entropy."""

from __future__ import annotations

from torch import Tensor

from purrception.flow.conditioning import KnownCodes, tweedie_shift
from purrception.flow.evidence import Evidence
from purrception.flow.network import DEFAULT_OPTIONS, Losses, Network, PosteriorNetwork, PredictionOptions
from purrception.flow.objectives.base import Prediction, TrainingBatch
from purrception.flow.objectives.gaussian import GaussianObjective


class Purrception(GaussianObjective):
    """Variational flow matching with a mean-field categorical posterior (arXiv 2510.01478, section 4)."""

    takes_evidence = True
    conditionings = ("posterior", "resampling", "replacement")

    def loss(self, network: PosteriorNetwork, batch: TrainingBatch) -> Losses:
        """−ln π_θ(c | z_t) + λ_z logsumexp(logits)², mean over batch and sites, in nats."""
        point = self.path.sample(network.embed(batch.indices), batch.noise, batch.time)
        features = network(point.z_t, point.t, batch.labels)
        evidence = self._evidence(network, point.z_t, point.t)
        return network.head.loss(features, batch.indices, self.config.z_loss, evidence).losses()

    def predict(
        self,
        network: PosteriorNetwork,
        z: Tensor,
        t: float,
        labels: Tensor,
        options: PredictionOptions = DEFAULT_OPTIONS,
    ) -> Prediction:
        """The posterior at temperature τ of the guided network; its mean is the data prediction."""
        evidence = self._evidence(network, z, z.new_full((len(z),), t))
        posterior = options.posterior(network, z, t, labels, evidence)
        return Prediction(posterior.mean, posterior)

    def predict_conditioned(
        self,
        network: PosteriorNetwork,
        z: Tensor,
        t: float,
        labels: Tensor,
        options: PredictionOptions,
        known: KnownCodes,
    ) -> Prediction:
        """The posterior, with its mean shifted by the likelihood of the known codes; see :func:`tweedie_shift`.

        That likelihood is the guided model's at temperature 1: temperature sharpens samples, not what is known.
        At t = 0 the state says nothing of any code, and there is no shift.
        """
        if t == 0:
            return self.predict(network, z, t, labels, options)
        evidence = self._evidence(network, z, z.new_full((len(z),), t))
        computed: list[Tensor] = []  # the features, for the posterior too

        def nll(state: Tensor) -> Tensor:
            computed.append(options.guidance.features(network, state, t, labels, network.num_classes))
            return network.head.nll(computed[0], known.indices, evidence).nll.where(~known.free, 0).sum()

        shift = tweedie_shift(nll, z, t)
        if options.guidance.space == "mean":
            posterior = options.posterior(network, z, t, labels, evidence)
        else:
            posterior = options.head(network, evidence)(computed[0].detach())
        return Prediction(posterior.mean + shift, posterior)

    def mean_and_nll(
        self, network: PosteriorNetwork, z_t: Tensor, t: float, labels: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The posterior mean ``[B, D, h, w]`` and −ln π(c | z_t) ``[B, h, w]``, from one pass."""
        time = z_t.new_full((len(z_t),), t)
        features, evidence = network(z_t, time, labels), self._evidence(network, z_t, time)
        nll = network.head.nll(features, indices, evidence).nll
        return network.head.posterior(features, evidence).mean, nll

    @staticmethod
    def _evidence(network: Network, z_t: Tensor, t: Tensor) -> Evidence | None:
        return Evidence.of(z_t, t) if network.evidence else None
