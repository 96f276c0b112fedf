"""Objectives on the linear path: sampling by a solver, and a bound on the likelihood."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from purrception.flow.conditioning import KnownCodes, KnownPath, resampled
from purrception.flow.evidence import Evidence
from purrception.flow.nearest import nearest_codes
from purrception.flow.network import Network, PredictionOptions
from purrception.flow.objectives.base import (
    Draws,
    Generation,
    Objective,
    PathAverage,
    Prediction,
    State,
    StepEnd,
    Watcher,
    no_watcher,
)
from purrception.flow.paths import LinearPath
from purrception.flow.settings import SamplingConfig

# Range of λ = ln SNR = 2 ln(t/(1 − t)) in which the bound is evaluated: from t = 0.05, below which z_t says almost
# nothing, to t = 0.98, where the evidence alone tells a code from its neighbours.
LOG_SNR_ENDS = (-6.0, 8.0)


class GaussianObjective(Objective):
    """An objective whose network gives a prediction of the data at the end of the linear path."""

    path = LinearPath()
    conditionings: ClassVar[tuple[str, ...]] = ("resampling", "replacement")

    def state_at(self, network: Network, indices: Tensor, noise: Tensor, t: float) -> State:
        """z_t = t z_1 + (1 − t) z_0; every site is open."""
        z_t = self.path.sample(network.embed(indices), noise, noise.new_full((len(noise),), t)).z_t
        return State(z_t, torch.ones_like(indices, dtype=torch.bool))

    def generate(
        self,
        network: Network,
        labels: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        known: KnownCodes | None = None,
        watch: Watcher = no_watcher,
        step_end: StepEnd | None = None,
    ) -> Generation:
        """Integrate dz/dt = (μ − z)/(1 − t) from noise to t = 1, then choose a code per site.

        Known codes are held on their path t z_1 + (1 − t) z_0, with the noise of the same sites, at every
        evaluation of any solver. How the free sites are conditioned on them is described in
        :mod:`purrception.flow.conditioning`.
        """
        self.check(network, settings)
        conditioning = "replacement" if known is None else self.conditioning(known)
        if known is not None and bool(known.free.all()):  # as in variations: there is nothing to condition on
            conditioning = "replacement"
        noise, timesteps = draws.normal(0), settings.build_timesteps()
        uniforms = draws.uniform(0) if settings.last_step == "draw" else None
        path = None if known is None else KnownPath(known, network.embed(known.indices), noise)
        latest: list[Prediction] = []
        entropies = PathAverage()
        nfe = 0

        def mean(z: Tensor, t: float) -> Tensor:
            nonlocal nfe
            options = settings.options_at(t, uniforms)
            nfe += options.guidance.passes_at(t)
            z = z if path is None else path.hold(z, t)
            if known is not None and conditioning == "posterior" and t >= known.since:
                prediction = self.predict_conditioned(network, z, t, labels, options, known)
            else:
                prediction = self.predict(network, z, t, labels, options)
            watch(t, z, prediction)
            latest[:] = [prediction]
            if prediction.posterior is not None:
                entropies.add(t, prediction.posterior.entropy)
            return prediction.mean if path is None else path.data(prediction.mean, t)

        def fresh_noise(step: int) -> Tensor:
            return draws.normal(step + 1)

        solver, start = settings.build_solver(fresh_noise), noise
        if known is not None and path is not None:
            start, timesteps = path.at(known.start), known.timesteps_from_start(timesteps)
            if conditioning == "resampling":
                solver = resampled(settings.build_solver, fresh_noise, known.repetitions, path)
        ended = None if step_end is None else lambda number, t, z: step_end(number, t, z, latest[0])
        z = solver(mean, start, timesteps, step_end=ended)
        posterior = latest[0].posterior
        if posterior is None:
            indices, entropy = nearest_codes(z, network.codebook), None
        else:
            indices = settings.build_last_step()(z, posterior, network.codebook)
            entropy = posterior.entropy
        path_entropy = entropies.value()
        if known is not None:
            indices = known.keep(indices)
            entropy = None if entropy is None else entropy.where(known.free, 0)
            path_entropy = None if path_entropy is None else path_entropy.where(known.free, 0)
        return Generation(indices, entropy, nfe, path_entropy)

    def predict_conditioned(
        self, network: Network, z: Tensor, t: float, labels: Tensor, options: PredictionOptions, known: KnownCodes
    ) -> Prediction:
        """:meth:`predict` given the known codes; for objectives with a posterior."""
        raise NotImplementedError

    def nll_bounds(
        self, network: Network, indices: Tensor, labels: Tensor, draws: Draws, nodes: int = 29
    ) -> Tensor:
        """Bounds on −ln p(c | y) of a continuous diffusion over the embeddings (Plaid, arXiv 2305.18619).

        −ln p(c) ≤ ½ ∫₀^{SNR(t)} E|z_1 − μ(z_s)|² dSNR(s) − E ln p(c | z_t) for every end t, with SNR =
        t²/(1 − t)²; the prior term vanishes, since the path starts in pure noise. The last term is the
        decoder of :meth:`mean_and_nll`. Each node has one noise; the integral is a trapezium rule in λ = ln SNR.

        Args:
            network: in evaluation mode.
            indices: codes, long ``[B, h, w]``.
            labels: long ``[B]``.
            draws: noise by node.
            nodes: ends t at which the network is evaluated, evenly spaced in λ.

        Returns:
            One bound for each end, in nats per image, float64 ``[nodes, B]``.
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

        The decoder p is the evidence in z_t under equally likely codes; objectives with a posterior use the
        posterior instead.
        """
        evidence = Evidence.of(z_t, z_t.new_full((len(z_t),), t)).logits(network.codebook)
        nll = -evidence.log_softmax(dim=-1).gather(-1, indices[..., None])[..., 0]
        return self.predict(network, z_t, t, labels).mean, nll
