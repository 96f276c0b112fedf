"""The error bound from the training loss to the distance of the generated law from the data, with its constants.

The derivation, its assumptions and its source are in docs/concepts/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from purrception.flow.paths import LinearPath
from purrception.flow.timesteps import Timesteps
from purrception.instruments.oracle import site_divergences
from purrception.instruments.posteriors import LogPosterior, mean_function, posterior_mean
from purrception.instruments.smoothness import Stiffness, jacobians, velocity_field

PATH = LinearPath()
ROWS = 1024
LARGEST_EXPONENT, LARGEST_BOUND = 300.0, 1e300
Growth = Callable[[Tensor, Tensor, float], Tensor]
"""States ``[B, …]`` of the exact and of the model's flow and t → λ of each pair ``[B]``: the largest one-sided
Lipschitz constant of the model's field on the segment between the two."""
LARGEST_JACOBIAN = 128
"""Size of a state up to which its Jacobian is formed and its eigenvalues are exact."""


def codebook_diameter(codebook: Tensor) -> float:
    """Largest distance between two codes of ``[K, D]``, computed in blocks of rows."""
    codes = codebook.double()
    return max(float(torch.cdist(block, codes).max()) for block in codes.split(ROWS))


def pinsker(divergence: Tensor) -> Tensor:
    """An upper bound on the total variation, from a KL divergence in nats: min(√(KL/2), √(1 − e^−KL)).

    The first bound is Pinsker's; the second is Bretagnolle and Huber's, which stays below 1.
    """
    return torch.minimum((divergence / 2).sqrt(), (-torch.expm1(-divergence)).clamp_min(0).sqrt())


def velocity_bound(total_variation: Tensor, diameter: float, t: float) -> Tensor:
    """|v_θ − v| ≤ diam(E) (Σ_i TV_i²)^½ / (1 − t) of a whole grid: TV per site ``[B, h, w]`` → ``[B]``.

    At a site, μ_θ − μ = Σ_k (π_k − p_k) e_k is TV times the difference of two barycentres, hence at most
    diam(E) · TV.
    """
    return diameter * total_variation.flatten(1).norm(dim=1) / (1 - t)


def wasserstein_bound(times: Timesteps, errors: Tensor, growth: Tensor) -> Tensor:
    """∫₀ᵗ ε_s exp(∫ₛᵗ λ_r dr) ds at each time, by an upper sum, float64 ``[T, …]``.

    With the root mean square velocity error ε and one λ for all states, each ``[T]``, this bounds the W₂ distance
    of the laws of both flows. With those of single paths, ``[T, B]``, it bounds the distance of each pair of
    paths, whose root mean square bounds W₂.

    Args:
        times: T increasing times from 0, all below 1.
        errors: ε, the velocity error at the states of the exact flow.
        growth: λ, the one-sided Lipschitz constant of the model's field between the states.
    """
    errors, growth = errors.double(), growth.double()
    bounds = [torch.zeros_like(errors[0])]
    for number, (t, s) in enumerate(pairwise(times)):
        error = errors[number : number + 2].amax(0)
        factor = ((s - t) * growth[number : number + 2].amax(0)).clamp(max=LARGEST_EXPONENT).exp()
        bounds.append((bounds[-1] * factor + (s - t) * error * factor.clamp_min(1)).clamp(max=LARGEST_BOUND))
    return torch.stack(bounds)


@dataclass(frozen=True)
class BoundCheck:
    """The distance of two flows and its bounds at every time, float64 ``[T]`` each."""

    times: Timesteps
    error: Tensor
    """ε: root mean square of |v_θ − v| under the exact law."""
    error_by_variation: Tensor
    """Its bound by diam(E) and the total variation."""
    error_by_divergence: Tensor
    """Its bound by diam(E) and KL(exact ‖ model)."""
    growth: Tensor
    """λ, the largest over all pairs."""
    distance: Tensor
    """(E|Y_t − X_t|²)^½ of the flows coupled by their noise: at least W₂, and equal to it on a line."""
    bound_by_paths: Tensor
    """Bound on the distance by the error and λ of each pair of paths."""
    bound: Tensor
    """Bound by ε and the largest λ, which is looser."""
    bound_by_variation: Tensor
    """Bound by the total variation, which is looser still."""
    bound_by_divergence: Tensor
    """Bound by the divergence, the loosest."""
    held: bool
    """Whether every inequality held at every time; those of the error, for every image."""

    def tightness(self, at: int = -1) -> dict[str, float]:
        """The ratio of each bound to the distance, at one of the times; infinite if the flows agree."""
        names = ("bound_by_paths", "bound", "bound_by_variation", "bound_by_divergence")
        distance = float(self.distance[at])
        return {name: float(getattr(self, name)[at]) / distance if distance else math.inf for name in names}


@torch.no_grad()
def check_bound(
    exact: LogPosterior, model: LogPosterior, codebook: Tensor, noise: Tensor, times: Timesteps, growth: Growth
) -> BoundCheck:
    """Follow both flows from the same noise by Heun's method, and compare their distance with its bounds.

    Args:
        exact: the exact posterior, :meth:`Oracle.posterior`.
        model: the learned or damaged posterior.
        codebook: codes ``[K, D]``.
        noise: ``[B, D, h, w]``, best in double precision, to keep rounding out of the comparison.
        times: increasing from 0, all below 1; a finer grid follows the flows more closely.
        growth: how λ is found: :func:`growth_on_a_line`, or :func:`growth_between`.
    """
    diameter = codebook_diameter(codebook)
    x = y = noise
    chains, rates, distances = [], [], []
    for t, s in pairwise([*times, 1.0]):
        # Normalised again, so that probabilities sum to 1 in float64.
        learned, true = (p(x, t).double().log_softmax(-1) for p in (model, exact))
        divergence, variation = site_divergences(true, learned)
        gap = posterior_mean(learned, codebook) - posterior_mean(true, codebook)
        error = gap.flatten(1).norm(dim=1) / (1 - t)
        by_both = (velocity_bound(one, diameter, t) for one in (variation, pinsker(divergence)))
        chains.append(torch.stack([error, *by_both]))
        rates.append(growth(x, y, t).double())
        distances.append((y - x).double().flatten(1).norm(dim=1))
        if s < 1:
            x, y = (_heun(mean_function(p, codebook), z, t, s) for p, z in ((exact, x), (model, y)))
    errors, rate, distance = torch.stack(chains, dim=1), torch.stack(rates), torch.stack(distances)
    error, by_variation, by_divergence = (_root_mean_square(one) for one in errors)
    peak = rate.amax(1)
    distance = _root_mean_square(distance)
    by_paths = _root_mean_square(wasserstein_bound(times, errors[0], rate))
    bounds = [wasserstein_bound(times, one, peak) for one in (error, by_variation, by_divergence)]
    # The error is checked for each image; for the distance, a thousandth allows for the error of Heun's method.
    held = _rises(errors, 1e-6) and _rises([distance, by_paths], 1e-3) and _rises([distance, *bounds], 1e-3)
    return BoundCheck(
        times, error, by_variation, by_divergence, peak, distance, by_paths, bounds[0], bounds[1], bounds[2], held
    )


def growth_on_a_line(model: LogPosterior, codebook: Tensor, points: int = 1001) -> Growth:
    """λ for one site and one channel: the largest slope of the field on each segment, on a fine grid of points."""
    reach = 6.0 + float(codebook.abs().max())

    def growth(x: Tensor, y: Tensor, t: float) -> Tensor:
        net = torch.linspace(-reach, reach, points, dtype=x.dtype)
        velocity = velocity_field(mean_function(model, codebook), t)(net.view(-1, 1, 1, 1)).flatten()
        slopes = velocity.diff() / net.diff()
        ends = torch.stack([x.flatten(), y.flatten()])
        # One more cell on either side, since within a cell the slope may be steeper than its mean.
        low, high = (ends.amin(0) - 2 * reach / points)[:, None], (ends.amax(0) + 2 * reach / points)[:, None]
        inside = (net[1:] >= low) & (net[:-1] <= high)
        return torch.where(inside, slopes, -torch.inf).amax(1)

    return growth


def growth_between(model: LogPosterior, codebook: Tensor, iterations: int = 30) -> Growth:
    """λ as the largest of three on each segment: at both ends and in the middle. An estimate, not a
    certificate."""

    def growth(x: Tensor, y: Tensor, t: float) -> Tensor:
        field = velocity_field(mean_function(model, codebook), t)
        rates = []
        for share in (0.0, 0.5, 1.0):
            states = torch.lerp(x, y, share)
            if states[0].numel() <= LARGEST_JACOBIAN:
                whole = jacobians(field, states)
                rates.append(torch.linalg.eigvalsh(0.5 * (whole + whole.mT))[:, -1])
            else:
                rates.append(Stiffness.of(field, states, iterations).growth)
        return torch.stack(rates).amax(0)

    return growth


def _rises(chain: Iterable[Tensor], slack: float) -> bool:
    """Whether each tensor is at most the next, elementwise, up to rounding."""
    return all(bool((a <= b * (1 + slack) + 1e-6).all()) for a, b in pairwise(chain))


def _heun(mean: Callable[[Tensor, float], Tensor], z: Tensor, t: float, s: float) -> Tensor:
    first = PATH.velocity(mean(z, t), z, t)
    ahead = z + (s - t) * first
    return z + 0.5 * (s - t) * (first + PATH.velocity(mean(ahead, s), ahead, s))


def _root_mean_square(values: Tensor) -> Tensor:
    """Root mean square over the images of ``[T, B]``."""
    return values.double().square().mean(-1).sqrt()
