"""Models as functions from (z_t, t) to log-probabilities or to a mean, which is how instruments use them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from purrception.flow import Evidence, Guidance, Objective, PredictionOptions, Truncation, truncate
from purrception.flow.solvers import MeanFunction, Solver
from purrception.flow.timesteps import Timesteps
from purrception.models import CategoricalHead, PurrceptionTransformer
from purrception.utils.errors import InputError

LogPosterior = Callable[[Tensor, float], Tensor]
"""State ``[B, D, h, w]`` and t → ln π(k | z_t) of every site, ``[B, h, w, K]``; −∞ where a code is excluded."""
BATCH_BYTES = 128 * 2**20
"""Memory for log-probabilities. A sampler never holds all of them; instruments do, for a few images."""
PLAIN = PredictionOptions()


def images_at_once(network: PurrceptionTransformer) -> int:
    """Number of images whose log-probabilities fit into ``BATCH_BYTES``, between 1 and 256."""
    height, width = network.grid
    return max(1, min(256, BATCH_BYTES // (4 * height * width * len(network.codebook))))


def network_posterior(
    network: PurrceptionTransformer, labels: Tensor, options: PredictionOptions = PLAIN
) -> LogPosterior:
    """The posterior of a network for ``labels``, long ``[B]``, under ``options``.

    Guidance acts on the logits, whatever its space: an extrapolated mean belongs to no posterior.

    Raises:
        InputError: the network has no posterior.
    """
    head = network.head
    if not isinstance(head, CategoricalHead):
        raise InputError(
            "this model predicts a vector per site and has no posterior: use a run of purrception or dfm"
        )
    guidance, truncation = options.guidance, options.truncation
    guidance = Guidance(guidance.scale, guidance.interval)

    def log_posterior(z: Tensor, t: float) -> Tensor:
        logits = head.logits(guidance.features(network, z, t, labels, network.num_classes))
        if network.evidence:
            logits = logits + Evidence.of(z, z.new_full((len(z),), t)).logits(network.codebook)
        logits = logits / options.temperature
        return logits.log_softmax(-1) if truncation == Truncation() else truncate(logits, truncation)

    return log_posterior


def network_mean(network: PurrceptionTransformer, objective: Objective, labels: Tensor) -> MeanFunction:
    """The data prediction of any objective for ``labels``, long ``[B]``; differentiable in z."""
    if isinstance(network.head, CategoricalHead):
        return mean_function(network_posterior(network, labels), network.codebook)
    return lambda z, t: objective.predict(network, z, t, labels).mean


def posterior_mean(log_posterior: Tensor, codebook: Tensor) -> Tensor:
    """μ = Σ_k π_k e_k: ``[B, h, w, K]`` and ``[K, D]`` → ``[B, D, h, w]``."""
    return (log_posterior.exp() @ codebook.to(log_posterior)).movedim(-1, 1)


def mean_function(log_posterior: LogPosterior, codebook: Tensor) -> MeanFunction:
    """The mean of a posterior function, for solvers; in the state's precision."""
    return lambda z, t: posterior_mean(log_posterior(z, t), codebook).to(z.dtype)


def record_path(
    mean: MeanFunction, noise: Tensor, solver: Solver, timesteps: Timesteps
) -> tuple[Timesteps, Tensor, Tensor, Tensor]:
    """Sample with any solver: the T times of its evaluations, z_t and μ_t ``[T, B, …]`` at them, and the end."""
    times: list[float] = []
    states: list[Tensor] = []
    means: list[Tensor] = []

    def recorded(z: Tensor, t: float) -> Tensor:
        times.append(t)
        states.append(z)
        means.append(mean(z, t))
        return means[-1]

    end = solver(recorded, noise, timesteps)
    return tuple(times), torch.stack(states), torch.stack(means), end


def tempered(log_posterior: LogPosterior, temperature: float) -> LogPosterior:
    """π^(1/τ), normalised."""
    return lambda z, t: (log_posterior(z, t) / temperature).log_softmax(-1)


def blurred(log_posterior: LogPosterior, share: float) -> LogPosterior:
    """(1 − a) π + a/K, as of an underconfident network."""

    def mixed(z: Tensor, t: float) -> Tensor:
        exact = log_posterior(z, t)
        return ((1 - share) * exact.exp() + share / exact.shape[-1]).log()

    return mixed


def shifted(log_posterior: LogPosterior, scale: float, seed: int = 0) -> LogPosterior:
    """Normal random numbers times ``scale`` added to the logits of each code, as of a biased network."""

    def biased(z: Tensor, t: float) -> Tensor:
        exact = log_posterior(z, t)
        drawn = torch.randn(exact.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (exact + scale * drawn.to(exact)).log_softmax(-1)

    return biased
