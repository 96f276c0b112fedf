"""What the objectives on the linear path share: sampling by a solver, and a bound on the likelihood."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from purrception.flow.conditioning import Given, Held, resampled
from purrception.flow.evidence import Evidence
from purrception.flow.nearest import nearest_codes
from purrception.flow.objectives.base import (
    Draws,
    Generation,
    Network,
    Objective,
    Prediction,
    PredictionOptions,
    State,
    Watcher,
    unwatched,
)
from purrception.flow.paths import LinearPath
from purrception.flow.settings import SamplingConfig

# λ = ln SNR = 2 ln(t/(1 − t)), where the bound is evaluated: from t = 0.05, below which z_t says next to nothing,
# to t = 0.98, where a code is told from its neighbours by its own evidence.
LOG_SNR_ENDS = (-6.0, 8.0)


class GaussianObjective(Objective):
    """An objective whose network predicts, one way or another, the data at the end of the linear path."""

    path = LinearPath()
    conditionings: ClassVar[tuple[str, ...]] = ("resampling", "replacement")

    def state_at(self, network: Network, indices: Tensor, noise: Tensor, t: float) -> State:
        """z_t = t z_1 + (1 − t) z_0; no code is shown outright."""
        z_t = self.path.sample(network.embed(indices), noise, noise.new_full((len(noise),), t)).z_t
        return State(z_t, torch.ones_like(indices, dtype=torch.bool))

    def generate(
        self,
        network: Network,
        labels: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        given: Given | None = None,
        watch: Watcher = unwatched,
    ) -> Generation:
        """Integrate dz/dt = (μ − z)/(1 − t) from noise to t = 1, then choose a code per site.

        Given codes are held on their path t z_1 + (1 − t) z_0, with the noise of the same sites, at every
        evaluation, whichever solver asks and wherever its own state has gone. How the free sites learn of them
        is told in :mod:`purrception.flow.conditioning`.
        """
        self.check(network, settings)
        conditioning = "replacement" if given is None else self.conditioning(given)
        if given is not None and bool(given.free.all()):  # as in variations: there is nothing to learn of
            conditioning = "replacement"
        guidance, temperature = settings.build_guidance(), settings.build_temperature()
        truncation = settings.build_truncation()
        uniforms = draws.uniform(0) if settings.last_step == "draw" else None
        latest: list[Prediction] = []
        evaluations = 0
        noise, timesteps = draws.normal(0), settings.build_timesteps()
        held = None if given is None else Held(given, network.embed(given.indices), noise)

        def mean(z: Tensor, t: float) -> Tensor:
            nonlocal evaluations
            evaluations += guidance.passes_at(t)
            options = PredictionOptions(temperature(t), truncation, guidance, uniforms)
            z = z if held is None else held.hold(z, t)
            if given is not None and conditioning == "posterior" and t >= given.since:
                latest[:] = [self.predict_given(network, z, t, labels, options, given)]
            else:
                latest[:] = [self.predict(network, z, t, labels, options)]
            watch(t, z, latest[0])
            return latest[0].mean if held is None else held.data(latest[0].mean, t)

        def fresh(step: int) -> Tensor:
            return draws.normal(step + 1)

        solver, start = settings.build_solver(fresh), noise
        if given is not None and held is not None:
            start, timesteps = held.at(given.start), given.timesteps_from_start(timesteps)
            if conditioning == "resampling":
                solver = resampled(settings.build_solver, fresh, given.repetitions, held)
        z = solver(mean, start, timesteps)
        posterior = latest[0].posterior
        if posterior is None:
            indices, entropy = nearest_codes(z, network.codebook), None
        else:
            indices = settings.build_last_step()(z, posterior, network.codebook)
            entropy = posterior.entropy
        if given is not None:
            indices = given.keep(indices)
            entropy = None if entropy is None else entropy.where(given.free, 0)
        return Generation(indices, entropy, evaluations)

    def predict_given(
        self, network: Network, z: Tensor, t: float, labels: Tensor, options: PredictionOptions, given: Given
    ) -> Prediction:
        """As :meth:`predict`, of a model that also knows the given codes; where there is a posterior."""
        raise NotImplementedError

    def nll_bounds(
        self, network: Network, indices: Tensor, labels: Tensor, draws: Draws, nodes: int = 29
    ) -> Tensor:
        """Bounds on −ln p(c | y) of a continuous diffusion over the embeddings (Plaid, arXiv 2305.18619).

        −ln p(c) ≤ ½ ∫₀^{SNR(t)} E|z_1 − μ(z_s)|² dSNR(s) − E ln p(c | z_t) for every end t, with SNR =
        t²/(1 − t)²; the prior term vanishes, since the path starts in pure noise. The last term is the
        decoder of :meth:`mean_and_nll`. One noise a node; the integral is a trapezium rule in λ = ln SNR.

        Args:
            network: in evaluation mode.
            indices: codes, long ``[B, h, w]``.
            labels: long ``[B]``.
            draws: noise by node.
            nodes: ends t at which the network is evaluated, evenly spaced in λ.

        Returns:
            One bound for each end, nats per image, float64 ``[nodes, B]``.
        """
        z_1 = network.embed(indices)
        log_snr = torch.linspace(*LOG_SNR_ENDS, nodes, dtype=torch.float64, device=z_1.device)
        errors, decoders = [], []
        for node, time in enumerate((log_snr / 2).sigmoid().tolist()):
            z_t = self.path.sample(z_1, draws.normal(node), z_1.new_full((len(z_1),), time)).z_t
            mean, nll = self.mean_and_nll(network, z_t, time, labels, indices)
            errors.append((z_1 - mean).double().square().flatten(1).sum(1))
            decoders.append(nll.double().flatten(1).sum(1))
        integrand = 0.5 * log_snr.exp()[:, None] * torch.stack(errors)
        below = integrand[:1]  # ½ SNR E|…|² at the first node: the error is flat where z_t says nothing
        panels = 0.5 * (integrand[1:] + integrand[:-1]) * (log_snr[1] - log_snr[0])
        return torch.cat([below, below + panels.cumsum(0)]) + torch.stack(decoders)

    def mean_and_nll(
        self, network: Network, z_t: Tensor, t: float, labels: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The data prediction ``[B, D, h, w]``, and −ln p(c | z_t) per site ``[B, h, w]``.

        The decoder p is the evidence in z_t under equally likely codes; objectives with a posterior of their
        own use that.
        """
        evidence = Evidence.of(z_t, z_t.new_full((len(z_t),), t)).logits(network.codebook)
        nll = -evidence.log_softmax(dim=-1).gather(-1, indices[..., None])[..., 0]
        return self.predict(network, z_t, t, labels).mean, nll
