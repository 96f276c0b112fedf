"""Discrete flow matching on the mask path (Gat et al., arXiv 2407.15595)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from purrception.flow.conditioning import KnownCodes
from purrception.flow.network import DEFAULT_OPTIONS, Losses, Network, PosteriorNetwork, PredictionOptions
from purrception.flow.objectives.base import (
    Draws,
    Generation,
    Objective,
    PathAverage,
    Prediction,
    State,
    StepEnd,
    TrainingBatch,
    Watcher,
    no_watcher,
)
from purrception.flow.posterior import Posterior
from purrception.flow.settings import SamplingConfig
from purrception.flow.timesteps import Timesteps, get_timesteps
from purrception.utils.errors import InputError

MASKED_SHARE = 0.5
"""Expected share of masked sites, with t uniform on [0, 1]."""


class DFM(Objective):
    """Each site shows its code with probability t and [MASK] otherwise; the network predicts the masked codes."""

    extra_channels = 1
    takes_redraw = True
    solvers = ("euler", "stochastic")

    @property
    def token_embedding(self) -> bool:
        """Whether codes enter the network as learned vectors."""
        return self.config.embedding == "learned"

    def check(self, network: Network, settings: SamplingConfig) -> None:
        """Refuse settings of an ODE."""
        super().check(network, settings)
        if settings.solver not in self.solvers or settings.last_step != "nearest":
            raise InputError(
                f"a 'dfm' model unmasks codes and has no ODE: its solver is {' or '.join(self.solvers)} (with "
                f"corrector) and it has no last step; given solver {settings.solver!r} and last step "
                f"{settings.last_step!r}"
            )
        if settings.redraw and settings.solver != "euler":
            raise InputError(f"redraw is a sampler of its own, of solver euler; given solver {settings.solver!r}")
        if settings.guidance_space == "mean" and settings.guidance_scale != 1:
            raise InputError(
                "a 'dfm' model draws codes and follows no mean: guidance_space is 'logits'; given 'mean'"
            )

    def supported(self, settings: SamplingConfig) -> SamplingConfig:
        """The same steps and posterior with the sampler of the mask path."""
        return replace(settings, solver="euler", last_step="nearest", guidance_space="logits")

    def loss(self, network: PosteriorNetwork, batch: TrainingBatch) -> Losses:
        """−ln π(c | masked grid) + z-loss, in nats: summed over masked sites, divided by their expected number.

        Dividing by the number of masked sites in this batch would make the loss depend on how a batch is split
        into microbatches and processes. The figures to report are means over the sites that are masked.

        The masks come from the batch's Gaussian noise: its first channel, mapped by the normal distribution
        function, is uniform, so that all objectives train on the same random numbers.

        If all sites count, the loss is their mean: the network also learns to reproduce the codes it is shown.
        """
        masked = self._masked(batch.noise, batch.time.view(-1, 1, 1))
        features = network(network.embed_masked(batch.indices, masked), batch.time, batch.labels)
        if self.config.sites == "all":
            return network.head.loss(features, batch.indices, self.config.z_loss).losses()
        weights = masked.float() / (MASKED_SHARE * masked.numel())
        losses = network.head.loss(features, batch.indices, self.config.z_loss, weights=weights).losses()
        share = weights.sum().clamp_min(1 / masked.numel())
        return Losses(losses.total, {name: value / share for name, value in losses.figures.items()})

    @staticmethod
    def _masked(noise: Tensor, t: Tensor | float) -> Tensor:
        return torch.special.ndtr(noise[:, 0]) >= t

    def state_at(self, network: Network, indices: Tensor, noise: Tensor, t: float) -> State:
        """The grid with each site shown with probability t; those still masked are open."""
        masked = self._masked(noise, t)
        return State(network.embed_masked(indices, masked), masked)

    def predict(
        self,
        network: PosteriorNetwork,
        z: Tensor,
        t: float,
        labels: Tensor,
        options: PredictionOptions = DEFAULT_OPTIONS,
    ) -> Prediction:
        """The posterior of the masked sites, given a state ``z`` of ``embed_masked``."""
        posterior = options.posterior(network, z, t, labels, evidence=None)
        return Prediction(posterior.mean, posterior)

    def generate(
        self,
        network: PosteriorNetwork,
        labels: Tensor,
        draws: Draws,
        settings: SamplingConfig,
        known: KnownCodes | None = None,
        watch: Watcher = no_watcher,
        step_end: StepEnd | None = None,
    ) -> Generation:
        """Unmask at the path's rate: from t to s each masked site is drawn with probability (s − t)/(1 − t).

        A site that is unmasked stays so, unless there is a corrector (``eta`` a > 0): then masked sites are drawn
        at 1 + a times the rate, and unmasked ones masked again at a times the backward rate 1/t, which keeps the
        marginals of the path (Gat et al., section 3).

        With ``redraw`` unmasked sites are drawn again at the same rate, as in the paper's code: of N + 1 steps the
        first N are made, and the last of them draws all that is still masked. It is meant for a network that was
        trained on all sites, which mostly gives back the code that a site shows.

        Known codes are shown from the first step and never masked; with a start later than 0 every other site's
        code is also shown with probability t, as on the path.
        """
        self.check(network, settings)
        if known is not None:
            self.conditioning(known)  # refuses any but replacement: codes that are shown are known exactly
        corrector = settings.eta if settings.solver == "stochastic" else 0.0
        uniforms = draws.uniform(0)
        indices = torch.zeros_like(uniforms, dtype=torch.long)
        masked = torch.ones_like(indices, dtype=torch.bool)
        entropy, entropies = torch.zeros_like(uniforms), PathAverage()
        nfe = 0
        timesteps = self._timesteps(settings)
        if known is not None:
            indices, masked = known.indices, uniforms >= known.start
            timesteps = known.timesteps_from_start(timesteps)
        for step, (t, s) in enumerate(pairwise(timesteps)):
            held = torch.zeros_like(masked) if known is None or t < known.since else ~known.free
            masked = masked & ~held
            indices = indices if known is None else torch.where(held, known.indices, indices)
            entropy = entropy.masked_fill(held, 0)
            options = settings.options_at(t, draws.uniform(2 * step + 1))
            nfe += options.guidance.passes_at(t)
            state = network.embed_masked(indices, masked)
            posterior = self.predict(network, state, t, labels, options).posterior
            assert posterior is not None
            assert posterior.drawn is not None
            prediction = _where_masked(network, posterior, indices, masked)
            watch(t, state, prediction)
            entropies.add(t, posterior.entropy.where(masked, 0))
            uniforms = draws.uniform(2 * step + 2)
            rate = (s - t) / (1 - t)
            unmask = masked & ((uniforms < (1 + corrector) * rate) | (s == timesteps[-1]))
            if settings.redraw:
                unmask |= ~masked & ~held & (uniforms < rate)
            backward_rate = corrector * (s - t) / t if t > 0 and s < 1 else 0.0
            remask = ~masked & ~held & (uniforms < backward_rate)
            indices = torch.where(unmask, posterior.drawn, indices)
            entropy = torch.where(unmask, posterior.entropy, entropy)
            masked = (masked & ~unmask) | remask
            if step_end is not None:
                codes, goes_on = step_end(step, t, indices.masked_fill(masked, -1), prediction)
                indices, masked = codes.clamp_min(0), codes < 0
                if not goes_on:
                    indices = torch.where(masked, posterior.codes, indices)
                    break
        indices = indices if known is None else known.keep(indices)
        return Generation(indices, entropy, nfe, entropies.value())

    def _timesteps(self, settings: SamplingConfig) -> Timesteps:
        """The timesteps between which codes are drawn; with ``redraw``, the first N of N + 1 steps."""
        if settings.redraw:
            return get_timesteps(settings.timestep_spacing, settings.num_inference_steps + 1)[:-1]
        return settings.build_timesteps()

    def nll_bounds(
        self, network: PosteriorNetwork, indices: Tensor, labels: Tensor, draws: Draws, nodes: int = 29
    ) -> Tensor:
        """The path's evidence lower bound: −ln p(c | y) ≤ ∫₀¹ E Σ_masked −ln π(c_i | z_t) dt/(1 − t).

        The integral is a midpoint rule over t with one mask for each node.

        Args:
            network: in evaluation mode.
            indices: codes, long ``[B, h, w]``.
            labels: long ``[B]``.
            draws: uniform numbers by node.
            nodes: times at which the network is evaluated.

        Returns:
            The bound, in nats per image, float64 ``[1, B]``.
        """
        total = torch.zeros(len(indices), dtype=torch.float64, device=indices.device)
        for node in range(nodes):
            time = (node + 0.5) / nodes
            masked = draws.uniform(node) >= time
            t = total.new_full((len(indices),), time, dtype=torch.float32)
            features = network(network.embed_masked(indices, masked), t, labels)
            nll = network.head.nll(features, indices).nll.double()
            total += (nll * masked).flatten(1).sum(1) / ((1 - time) * nodes)
        return total[None]


def _where_masked(network: Network, posterior: Posterior, indices: Tensor, masked: Tensor) -> Prediction:
    """The prediction for all sites: the codes that are shown, and the posterior of the others."""
    certain = replace(
        posterior,
        entropy=posterior.entropy.where(masked, 0),
        max_probability=posterior.max_probability.where(masked, 1),
        codes=posterior.codes.where(masked, indices),
    )
    return Prediction(posterior.mean.where(masked[:, None], network.embed(indices)), certain)
