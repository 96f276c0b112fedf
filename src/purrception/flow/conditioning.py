"""Known codes on the linear path, and how the free sites are conditioned on them.

Known codes are held on their path, z_t = t e_c + (1 − t) z_0, at every evaluation (*replacement*). The network
then sees them through as much noise as everything else, and answers as if no more were known of them: at early
times the free sites move towards the mean of all images rather than of those that fit, and they keep what they
decided then. Two methods correct this:

* *posterior*: the mean of the free sites given the known codes c_G is, by Tweedie's formula,
  E[z_1 | z_t, c_G] = E[z_1 | z_t] + ((1 − t)²/t) ∇_z ln p(c_G | z_t). A categorical model knows the last term
  except for the dependence between known sites: Σ ln π(c_i | z_t) over the known sites. It costs a backward pass
  through the network. It is exact for one known site; several sites that carry the same information are counted
  several times.
* *resampling*: each step is made several times, and in between the state is noised back, with new noise at the
  known sites too, so that the free sites follow many views of them (RePaint, arXiv 2201.09865). It costs as many
  evaluations, and needs nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor

from purrception.flow.paths import LinearPath
from purrception.flow.solvers import MeanFunction, NoiseFunction, Solver, SolverStepEnd
from purrception.flow.timesteps import Timesteps
from purrception.utils.errors import InputError, unknown_name

PATH = LinearPath()
CONDITIONINGS = ("posterior", "resampling", "replacement")
AUTOMATIC = "auto"
"""Leaves the method of conditioning to the objective."""


@dataclass(frozen=True)
class KnownCodes:
    """Codes of images that are known before sampling, as in inpainting and variations.

    Raises:
        InputError: a time lies outside [0, 1], sampling would start at its end, the method of conditioning is
            unknown, or a step would be made less than once.
    """

    indices: Tensor
    """Codes, long ``[B, h, w]``."""
    free: Tensor
    """Sites to sample again, bool ``[B, h, w]``; the others keep exactly their codes."""
    start: float = 0.0
    """Time at which sampling begins: at 0 from noise, later from all ``indices`` on their path at that time."""
    since: float = 0.0
    """Time from which the codes that are not free are held; before it, they are as free as the others."""
    conditioning: str = AUTOMATIC
    """How the free sites are conditioned on the known ones: posterior, resampling or replacement (see above), or
    auto, the best that the objective has."""
    repetitions: int = 10
    """How often each step is made in resampling."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.conditioning not in (AUTOMATIC, *CONDITIONINGS):
            raise unknown_name("way of conditioning", self.conditioning, (AUTOMATIC, *CONDITIONINGS))
        if self.repetitions < 1:
            raise InputError(f"a step is made at least once; given {self.repetitions} repetitions")
        if not 0 <= self.start < 1 or not 0 <= self.since <= 1:
            raise InputError(
                f"sampling starts at a time in [0, 1) and holds codes since one in [0, 1]; given {self.start} "
                f"and {self.since}"
            )

    def keep(self, indices: Tensor) -> Tensor:
        """``indices`` ``[B, h, w]`` with the known codes where they are not free."""
        return torch.where(self.free, indices, self.indices)

    def timesteps_from_start(self, timesteps: Timesteps) -> Timesteps:
        """The timesteps from ``start`` on."""
        return timesteps if self.start == 0 else (self.start, *(t for t in timesteps if t > self.start))


class KnownPath:
    """The path of known codes.

    Args:
        known: which sites are held, and since when.
        z_1: embeddings of the codes, ``[B, D, h, w]``.
        noise: z_0, where their path begins.
    """

    def __init__(self, known: KnownCodes, z_1: Tensor, noise: Tensor) -> None:
        self._z_1, self._free, self._since = z_1, known.free[:, None], known.since
        self.noise = noise

    def at(self, t: float) -> Tensor:
        """All sites of the known codes at time ``t``."""
        return torch.lerp(self.noise, self._z_1, t)

    def hold(self, z: Tensor, t: float) -> Tensor:
        """``z`` with the sites that are not free on their path."""
        return z if t < self._since else z.where(self._free, self.at(t))

    def data(self, mean: Tensor, t: float) -> Tensor:
        """A data prediction with the codes that are not free, so that the solver's state stays on their path."""
        return mean if t < self._since else mean.where(self._free, self._z_1)


def resampled(
    build: Callable[[NoiseFunction], Solver], noise: NoiseFunction, repetitions: int, path: KnownPath
) -> Solver:
    """A solver that makes each step but the last ``repetitions`` times, noised back in between.

    Going back from s to t on the path is z_t = (t/s) z_s + √((1 − t)² − (t/s)² (1 − s)²) ε. Every interval is
    integrated on its own, so that a multistep solver takes first-order steps.

    Args:
        build: the solver to repeat, from a noise function.
        noise: standard normal noise for 0, 1, …; every number is used once.
        repetitions: how often each step is made.
        path: the known codes; their noise is drawn again at each repetition.
    """
    numbers = count()

    def fresh(_: int = 0) -> Tensor:
        return noise(next(numbers))

    step = build(fresh)

    def solve(
        mean: MeanFunction, z: Tensor, timesteps: Timesteps, *, step_end: SolverStepEnd | None = None
    ) -> Tensor:
        for number, (t, s) in enumerate(pairwise(timesteps)):
            for _ in range(repetitions - 1 if s < 1 else 0):
                z = PATH.back(step(mean, z, (t, s)), fresh(), s, t)
                path.noise = fresh()
            z = step(mean, z, (t, s))
            if step_end is not None:
                z, goes_on = step_end(number, t, z)
                if not goes_on:
                    break
        return z

    return solve


def tweedie_shift(nll: Callable[[Tensor], Tensor], z: Tensor, t: float) -> Tensor:
    """((1 − t)²/t) ∇_z ln π(c_G | z_t): how knowing the codes c_G shifts the data prediction.

    Args:
        nll: states → −ln π of the known codes, summed; differentiable.
        z: the state ``[B, D, h, w]``.
        t: time above 0.
    """
    with torch.enable_grad():
        state = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nll(state), state)
    return -((1 - t) ** 2) / t * gradient
