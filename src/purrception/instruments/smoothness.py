"""Smoothness of the velocity field, curvature of the paths, and time grids made from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from purrception.flow.nearest import nearest_codes
from purrception.flow.paths import LinearPath
from purrception.flow.solvers import MeanFunction, Solver
from purrception.flow.timesteps import Timesteps
from purrception.instruments.posteriors import record_path

PATH = LinearPath()
Field = Callable[[Tensor], Tensor]
"""A velocity at a fixed time: ``[B, …]`` → the same shape, with the images of a batch independent."""
ITERATIONS, TOLERANCE = 60, 1e-5
LEAST_DENSITY = 0.1
"""Least density of steps relative to a uniform grid, so that some steps are left even where paths are straight."""


def velocity_field(mean: MeanFunction, t: float) -> Field:
    """v(z) = (μ(z, t) − z)/(1 − t) at a time t < 1."""
    return lambda z: PATH.velocity(mean(z, t), z, t)


@dataclass(frozen=True)
class Stiffness:
    """How the Jacobian J of a field changes small differences, image by image; each ``[B]``, per unit of time."""

    largest: Tensor
    """σ_max(J), the local Lipschitz constant."""
    growth: Tensor
    """λ_max((J + Jᵀ)/2): the fastest rate at which neighbouring states diverge; negative if all of them
    converge."""

    @classmethod
    def of(cls, field: Field, z: Tensor, iterations: int = ITERATIONS, seed: int = 0) -> Stiffness:
        """Measured by power iteration, on JᵀJ and on the symmetric part of J.

        An iteration is one Jacobian–vector and one vector–Jacobian product; no Jacobian is formed. The singular
        value approaches the truth from below. Added to the diagonal of the symmetric part, it makes the largest
        eigenvalue the dominant one.

        Args:
            field: any differentiable map that treats the images of a batch independently.
            z: states ``[B, …]``.
            iterations: largest number of each; it stops when no value changes by more than 10⁻⁵ of itself.
            seed: seed of the initial direction.
        """
        forward, transposed = _products(field, z)
        largest = _dominant(lambda direction: transposed(forward(direction)), z, iterations, seed).sqrt()
        shift = largest.view(-1, *[1] * (z.dim() - 1))

        def shifted(direction: Tensor) -> Tensor:
            return 0.5 * (forward(direction) + transposed(direction)) + shift * direction

        return cls(largest, _dominant(shifted, z, iterations, seed) - largest)


def jacobians(field: Field, z: Tensor) -> Tensor:
    """The whole Jacobian of ``field`` at each state, ``[B, n, n]`` for n numbers; 64 backward passes at a time."""
    with sdpa_kernel(SDPBackend.MATH):
        pull = vjp(field, z)[1]
        basis = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device).view(-1, 1, *z.shape[1:])
        (rows,) = vmap(pull, chunk_size=64)(basis.expand(-1, len(z), *z.shape[1:]))
    return rows.flatten(2).transpose(0, 1)


def _products(field: Field, z: Tensor) -> tuple[Field, Field]:
    """J u and Jᵀ u of the Jacobian J of ``field`` at each state, as functions of u.

    The field is evaluated once. Jᵀ w is linear in w, so that its own gradient in w, contracted with u, is J u.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention with second derivatives
        z = z.detach().requires_grad_()
        velocity = field(z)
        cotangent = torch.zeros_like(velocity, requires_grad=True)
        (pulled,) = torch.autograd.grad(velocity, z, cotangent, create_graph=True)

    def forward(direction: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, cotangent, direction, retain_graph=True)[0]

    def transposed(direction: Tensor) -> Tensor:
        return torch.autograd.grad(velocity, z, direction, retain_graph=True)[0]

    return forward, transposed


def _dominant(operator: Callable[[Tensor], Tensor], z: Tensor, iterations: int, seed: int) -> Tensor:
    """The largest eigenvalue of a positive semidefinite operator on each image of the shape of ``z``."""
    drawn = torch.randn(z[0].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    direction = _normalised(drawn.to(z).expand_as(z))[0]
    value = z.new_zeros(len(z))
    for _ in range(iterations):
        direction, latest = _normalised(operator(direction))
        converged = bool(((latest - value).abs() <= TOLERANCE * latest).all())
        value = latest
        if converged:
            break
    return value


def _normalised(z: Tensor) -> tuple[Tensor, Tensor]:
    norm = z.flatten(1).norm(dim=1)
    return z / norm.clamp_min(1e-30).view(-1, *[1] * (z.dim() - 1)), norm


@dataclass(frozen=True)
class Curvature:
    """How far paths are from straight lines."""

    times: tuple[float, ...]
    """Midpoints of the intervals between evaluations."""
    curvature: tuple[float, ...]
    """Root mean square of |dv/dt| at these times, per latent number; the error of a step grows with it."""
    straightness: float
    """1 − ∫E|v_t − (z_1 − z_0)|² dt / E|z_1 − z_0|²: 1 for straight paths (compare Rectified Flow,
    arXiv 2209.03003)."""
    detour: float
    """Mean length of a path over the distance of its ends, at least 1."""


def measure_curvature(mean: MeanFunction, noise: Tensor, solver: Solver, timesteps: Timesteps) -> Curvature:
    """The curvature of paths from ``noise`` ``[B, D, h, w]``; the finer the time grid, the better."""
    return path_curvature(*record_path(mean, noise, solver, timesteps))


def path_curvature(times: Timesteps, states: Tensor, means: Tensor, end: Tensor) -> Curvature:
    """The curvature of recorded paths.

    Along a path, v = (μ − z)/(1 − t) has the derivative dv/dt = (dμ/dt)/(1 − t), so that differences of means
    suffice.

    Args:
        times: T increasing times.
        states: z_t at them ``[T, B, …]``, the first at t = 0.
        means: μ_t ``[T, B, …]``.
        end: the state at t = 1, ``[B, …]``.
    """
    states, means, end = states.double(), means.double(), end.double()
    chord = end - states[0]
    middles, curvature = [], []
    for (t, s), before, after in zip(pairwise(times), means[:-1], means[1:], strict=True):
        middles.append((t + s) / 2)
        curvature.append(float((after - before).square().mean().sqrt()) / ((s - t) * (1 - middles[-1])))
    widths = np.diff([*times, 1.0])
    departures = [
        width * float((PATH.velocity(mean, z, t) - chord).square().mean())
        for t, z, mean, width in zip(times, states, means, widths, strict=True)
    ]
    whole = torch.cat([states, end[None]])
    length = (whole[1:] - whole[:-1]).flatten(2).norm(dim=2).sum(0)
    return Curvature(
        tuple(middles),
        tuple(curvature),
        straightness=1 - sum(departures) / float(chord.square().mean()),
        detour=float((length / chord.flatten(1).norm(dim=1)).mean()),
    )


def proposed_timesteps(curvature: Curvature, steps: int) -> Timesteps:
    """The N + 1 times that minimise the error of N Euler steps.

    A step of length h at t has the error ½ h² |dv/dt|, of which later steps, which are drawn to their means, leave
    a share of about 1 − t. For a density ρ of steps the sum of errors is ∫ (1 − t) |dv/dt|/ρ dt, which is least
    for ρ ∝ ((1 − t) |dv/dt|)^½ = |dμ/dt|^½. The ends are exactly 0 and 1.
    """
    fine = np.linspace(0, 1, 513)
    density = np.sqrt(np.interp(fine, curvature.times, curvature.curvature) * (1 - fine))
    density = density / density.mean() + LEAST_DENSITY
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    inner = np.interp(np.linspace(0, 1, steps + 1), cumulative / cumulative[-1], fine)[1:-1]
    return (0.0, *(float(t) for t in inner), 1.0)


@dataclass(frozen=True)
class GridError:
    """The error of a time grid against many small steps from the same noise."""

    error: float
    """Root mean square difference of the final states, per latent number."""
    codes_changed: float
    """Share of sites whose nearest code differs."""


def grid_errors(
    mean: MeanFunction, codebook: Tensor, noise: Tensor, solver: Solver, grids: Mapping[str, Timesteps], fine: int
) -> dict[str, GridError]:
    """Compare time grids with a uniform one of ``fine`` steps, from noise ``[B, D, h, w]``."""
    truth = solver(mean, noise, tuple(n / fine for n in range(fine + 1)))
    codes = nearest_codes(truth, codebook)
    found = {}
    for name, grid in grids.items():
        end = solver(mean, noise, grid)
        found[name] = GridError(
            error=math.sqrt(float((end - truth).double().square().mean())),
            codes_changed=float((nearest_codes(end, codebook) != codes).double().mean()),
        )
    return found
