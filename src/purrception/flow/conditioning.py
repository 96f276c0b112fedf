"""Given codes on the linear path, and how the free sites come to know of them.

Given codes are held on their path, z_t = t e_c + (1 − t) z_0, at every evaluation (*replacement*). The network
then sees them through as much noise as everything else, and answers as if no more were known of them: at early
times the free sites move towards the mean of all images rather than of those that fit, and what they decided there
they keep. Two ways mend it:

* *posterior*: the mean of the free sites given the codes c_G themselves is, by Tweedie's formula,
  E[z_1 | z_t, c_G] = E[z_1 | z_t] + ((1 − t)²/t) ∇_z ln p(c_G | z_t), and a categorical model knows the last term
  but for what the given sites say of each other: Σ ln π(c_i | z_t) over the given sites. It costs the way back
  through the network. It is exact for one given site; of many that say the same it takes each for news.
* *resampling*: each step is made several times, the state noised back in between with noise that is new at the
  given sites too, so that free sites follow many views of them (RePaint, arXiv 2201.09865). It costs as many
  evaluations, and needs nothing of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor

from purrception.flow.paths import LinearPath
from purrception.flow.solvers import MeanFunction, NoiseFunction, Solver
from purrception.flow.timesteps import Timesteps
from purrception.utils.errors import InputError, unknown_name

PATH = LinearPath()
CONDITIONINGS = ("posterior", "resampling", "replacement")
AUTOMATIC = "auto"
"""Leaves the way of conditioning to the objective."""


@dataclass(frozen=True)
class Given:
    """What is known of images before they are sampled.

    Raises:
        InputError: a time lies outside [0, 1], nothing is left to do at the start, the way of conditioning is
            unknown, or a step is to be made less than once.
    """

    indices: Tensor
    """Codes, long ``[B, h, w]``."""
    free: Tensor
    """Sites to be made anew, bool ``[B, h, w]``; the others keep their codes, to the bit."""
    start: float = 0.0
    """Where sampling begins: at 0 from noise, later from ``indices`` on their path at that time, free or not."""
    since: float = 0.0
    """Time from which the codes that are not free are held; before it, they are as free as the others."""
    conditioning: str = AUTOMATIC
    """How the free sites come to know of the given ones: posterior, resampling or replacement (see above); auto:
    the best that the objective has."""
    repetitions: int = 10
    """resampling: how often each step is made."""

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
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
        """``indices`` ``[B, h, w]`` with the given codes where they are not free."""
        return torch.where(self.free, indices, self.indices)

    def timesteps_from_start(self, timesteps: Timesteps) -> Timesteps:
        """Those that are left from ``start`` on."""
        return timesteps if self.start == 0 else (self.start, *(t for t in timesteps if t > self.start))


class Held:
    """Given codes on their path.

    Args:
        given: which sites are held, and since when.
        z_1: embeddings of the codes, ``[B, D, h, w]``.
        noise: z_0, where their path begins.
    """

    def __init__(self, given: Given, z_1: Tensor, noise: Tensor) -> None:
        self._z_1, self._free, self._since = z_1, given.free[:, None], given.since
        self.noise = noise

    def at(self, t: float) -> Tensor:
        """All sites of the given codes at time ``t``."""
        return torch.lerp(self.noise, self._z_1, t)

    def hold(self, z: Tensor, t: float) -> Tensor:
        """``z`` with the sites that are not free on their path."""
        return z if t < self._since else z.where(self._free, self.at(t))

    def data(self, mean: Tensor, t: float) -> Tensor:
        """A data prediction that knows the codes that are not free: the solver's state stays on their path."""
        return mean if t < self._since else mean.where(self._free, self._z_1)


def resampled(
    build: Callable[[NoiseFunction], Solver], noise: NoiseFunction, repetitions: int, held: Held
) -> Solver:
    """A solver that makes each step but the last ``repetitions`` times, noised back in between.

    Back from s to t the path says z_t = (t/s) z_s + √((1 − t)² − (t/s)² (1 − s)²) ε. Every interval is
    integrated on its own, so that a multistep solver takes first-order steps.

    Args:
        build: the solver to repeat, from a noise function.
        noise: standard normal noise for 0, 1, …; every draw is asked for once.
        repetitions: of each step.
        held: what is given; it receives new noise at each repetition.
    """
    numbers = count()

    def fresh(_: int = 0) -> Tensor:
        return noise(next(numbers))

    step = build(fresh)

    def solve(mean: MeanFunction, z: Tensor, timesteps: Timesteps) -> Tensor:
        for t, s in pairwise(timesteps):
            for _ in range(repetitions - 1 if s < 1 else 0):
                z = PATH.back(step(mean, z, (t, s)), fresh(), s, t)
                held.noise = fresh()
            z = step(mean, z, (t, s))
        return z

    return solve


def pull(nll: Callable[[Tensor], Tensor], z: Tensor, t: float) -> Tensor:
    """((1 − t)²/t) ∇_z ln π(c_G | z_t): what the data prediction gains from knowing the given codes.

    Args:
        nll: states → −ln π of the given codes, summed; a graph is recorded for it.
        z: the state ``[B, D, h, w]``.
        t: time above 0.
    """
    with torch.enable_grad():
        free = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nll(free), free)
    return -((1 - t) ** 2) / t * gradient
