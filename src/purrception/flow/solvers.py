"""Solvers of dz/dt = (μ(z, t) − z)/(1 − t) from noise at t = 0 to data at t = 1.

A solver is a plain function of a data prediction ``mean(z, t) → μ``, a start and explicit timesteps. The
caller's function sees every evaluation, so counting and recording belong there.

A solver with fixed steps is written once, as a generator: it yields each state at which it needs the data
prediction, and is sent that prediction. :func:`integrate` runs it to its end; whoever owns the loop, such as the
pipeline's scheduler, takes its steps one by one.

Every solver is written as the exact Euler step z_s = μ̄ + (1 − s)/(1 − t) · (z_t − μ̄) with a better μ̄: nothing
is divided by 1 − s, and a step to s = 1 is Euler's, so that every solver ends on a posterior mean.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from purrception.flow.limits import check_eta, check_named, check_tolerances
from purrception.flow.paths import LinearPath
from purrception.flow.timesteps import Timesteps
from purrception.utils.errors import InputError
from purrception.utils.packages import require

MeanFunction = Callable[[Tensor, float], Tensor]
"""Data prediction: state ``[B, D, h, w]`` and t → posterior mean of the same shape."""
NoiseFunction = Callable[[int], Tensor]
"""Standard normal noise of the state's shape for a step 0, 1, …; keyed by image, it knows no batches."""
Steps = Generator[tuple[Tensor, float], tuple[Tensor, Tensor], Tensor]
"""A solver at work: it yields a state and a t, is sent the state to go on from (that one, or one put in its place)
and the data prediction there, and returns the state at the end."""
SolverStepEnd = Callable[[int, float, Tensor], tuple[Tensor, bool]]
"""Called after each evaluation with its number, its t and the state that it led to; returns the state to go on
from, and whether to go on."""


class Solver(Protocol):
    """Goes from the state at ``timesteps[0]`` to the one at ``timesteps[-1]``."""

    def __call__(
        self, mean: MeanFunction, z: Tensor, timesteps: Timesteps, *, step_end: SolverStepEnd | None = None
    ) -> Tensor:
        """The state at the last of the increasing times, or where ``step_end`` stopped."""
        ...


PATH = LinearPath()
ADAPTIVE_END = 1 - 1e-4
"""Where dopri5 stops integrating: landing on μ from there costs O((1 − t)²) = 1e-8 on smooth densities."""
ADAPTIVE_STEPS = 1000
"""Steps after which dopri5 gives up; a posterior that can be integrated takes tens."""


@dataclass(frozen=True)
class SolverOptions:
    """Options of some solvers; the others ignore them."""

    eta: float = 0.5
    """For stochastic, how much of the noise is drawn again, from 0 (none: Euler) to 1 (ancestral sampling)."""
    rtol: float = 1e-4
    """For dopri5, the relative tolerance of a step, per image."""
    atol: float = 1e-4
    """For dopri5, the absolute tolerance of a step, per image, in units of the standardised latents."""

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        check_eta(self.eta)
        check_tolerances(self.rtol, self.atol)


class FixedStepSolver:
    """A solver whose evaluations are known beforehand, made from the generator of its steps.

    Args:
        steps: ``(z, timesteps, **options)`` → :data:`Steps`.
    """

    def __init__(self, steps: Callable[..., Steps]) -> None:
        functools.update_wrapper(self, steps)
        self.steps = steps
        mean = inspect.Parameter("mean", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=MeanFunction)
        self.__signature__ = inspect.Signature([mean, *inspect.signature(steps).parameters.values()])

    def __call__(
        self,
        mean: MeanFunction,
        z: Tensor,
        timesteps: Timesteps,
        *options: Any,
        step_end: SolverStepEnd | None = None,
        **named: Any,
    ) -> Tensor:
        """See :class:`Solver`; the options are those of the steps."""
        return integrate(self.steps(z, timesteps, *options, **named), mean, step_end)

    def bind(self, **options: Any) -> FixedStepSolver:
        """The same solver with these options."""
        return FixedStepSolver(partial(self.steps, **options))

    def evaluations(self, timesteps: Timesteps) -> Timesteps:
        """The t of each evaluation between these timesteps; a stochastic solver's noise is asked for."""
        times, nothing = [], torch.zeros(1, 1)
        steps = self.steps(nothing, timesteps)
        _, t = resume(steps)
        while t is not None:
            times.append(t)
            _, t = resume(steps, (nothing, nothing))
        return tuple(times)


def resume(steps: Steps, answer: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, float | None]:
    """The next state and its t; at the end, the last state and ``None``.

    Args:
        steps: a solver at work.
        answer: the state to go on from and the data prediction there; nothing at the start.
    """
    try:
        return steps.send(answer) if answer is not None else next(steps)
    except StopIteration as end:
        return end.value, None


def integrate(steps: Steps, mean: MeanFunction, step_end: SolverStepEnd | None = None) -> Tensor:
    """Run a solver to its end, or until ``step_end`` says not to go on; returns the state there."""
    number = 0
    z, t = resume(steps)
    while t is not None:
        z, following = resume(steps, (z, mean(z, t)))
        if step_end is not None:
            z, goes_on = step_end(number, t, z)
            if not goes_on:
                break
        number, t = number + 1, following
    return z


@FixedStepSolver
def euler(z: Tensor, timesteps: Timesteps) -> Steps:
    """First-order steps; one evaluation each, and the last lands on its posterior mean.

    Args:
        mean: data prediction; ``z`` ``[B, D, h, w]`` and ``t`` to the posterior mean, of z's shape.
        z: the state at ``timesteps[0]``.
        timesteps: increasing times, N + 1 points for N steps.

    Returns:
        The state at ``timesteps[-1]``.
    """
    for t, s in pairwise(timesteps):
        z, mean = yield z, t
        z = PATH.advance(z, mean, t, s)
    return z


@FixedStepSolver
def heun(z: Tensor, timesteps: Timesteps) -> Steps:
    """Heun's second-order method: 2 evaluations a step, 1 where s = 1, thus 2N − 1 up to t = 1.

    The average of the velocities at both ends, written in means, is Euler's step with
    μ̄ = μ_t + (μ_s − μ_t)/(2r), r = (1 − s)/(1 − t). For r ≥ ½ (every interval of uniform timesteps but the last)
    that is exactly Heun. Longer intervals would extrapolate beyond both means, so the weight 1/(2r) stops at
    1: with the cap each state stays in the hull of the previous one and the means.

    Arguments and result are :func:`euler`'s.
    """
    for t, s in pairwise(timesteps):
        z, first = yield z, t
        arrived = PATH.advance(z, first, t, s)
        if s < 1:
            weight = min(0.5 * (1 - t) / (1 - s), 1.0)
            _, second = yield arrived, s
            arrived = PATH.advance(z, torch.lerp(first, second, weight), t, s)
        z = arrived
    return z


@FixedStepSolver
def midpoint(z: Tensor, timesteps: Timesteps) -> Steps:
    """The second-order midpoint method: 2 evaluations a step, 1 where s = 1, thus 2N − 1 up to t = 1.

    The velocity at c = (t + s)/2, written in means, is Euler's step with μ̄ = μ_t + 2/(1 + r) · (μ_c − μ_t),
    r = (1 − s)/(1 − t); the weight lies between 1 and 2.

    Arguments and result are :func:`euler`'s.
    """
    for t, s in pairwise(timesteps):
        z, average = yield z, t
        if s < 1:
            centre = (t + s) / 2
            _, halfway = yield PATH.advance(z, average, t, centre), centre
            average = torch.lerp(average, halfway, 2 / (1 + (1 - s) / (1 - t)))
        z = PATH.advance(z, average, t, s)
    return z


@FixedStepSolver
def dpmpp_2m(z: Tensor, timesteps: Timesteps) -> Steps:
    """DPM-Solver++(2M) on the data prediction (arXiv 2211.01095, algorithm 2): second order, N evaluations.

    With α = t and σ = 1 − t, λ = log(t/(1 − t)) and α_s (1 − e^(λ_t − λ_s)) = 1 − σ_s/σ_t: its update is
    Euler's step with μ̄ = μ_t + h/(2 h') · (μ_t − μ'), where h is this step in λ, h' the one before and μ' the
    mean then. λ is infinite at t = 0 and t = 1, so that the first step, the one after a start at 0 (h' = ∞)
    and the one to 1 are of first order. On uniform timesteps λ's steps grow without bound towards both ends,
    which costs a factor log N: the error falls as log N/N².

    Arguments and result are :func:`euler`'s.
    """
    before: tuple[float, Tensor] | None = None
    for t, s in pairwise(timesteps):
        z, current = yield z, t
        average = current
        if before is not None and before[0] > 0 and s < 1:
            ratio = (_log_snr(s) - _log_snr(t)) / (_log_snr(t) - _log_snr(before[0]))
            average = current + 0.5 * ratio * (current - before[1])
        z = PATH.advance(z, average, t, s)
        before = t, current
    return z


@FixedStepSolver
def stochastic(
    z: Tensor,
    timesteps: Timesteps,
    noise: NoiseFunction | None = None,
    eta: float = SolverOptions.eta,
) -> Steps:
    """Euler's steps with part of the noise forgotten and drawn again; N evaluations.

    A step splits z_t into its data part μ and its noise part ε̂ = (z_t − t μ)/(1 − t), and arrives at
    z_s = s μ + (1 − s)(√(1 − k²) ε̂ + k ε) with fresh ε and k = eta · √(1 − e^(−2h)), h the step in
    λ = log(t/(1 − t)): DDIM's η (arXiv 2010.02502, equation 16) on this path. Since k shrinks with the step,
    the marginals are those of the path in the limit of many steps, whatever the eta.

    Args:
        mean: as in :func:`euler`, as are z, timesteps and the result.
        z: the state at ``timesteps[0]``.
        timesteps: increasing times.
        noise: standard normal noise of z's shape for step 0, 1, …; asked for every step but one to s = 1.
        eta: 0 is exactly :func:`euler` and asks for no noise, 1 is ancestral sampling.

    Raises:
        InputError: the eta is outside [0, 1], or above 0 without a noise function.
    """
    check_eta(eta)
    if eta > 0 and noise is None:
        raise InputError(
            f"the stochastic solver draws noise; given eta {eta} and no noise function: pass noise(step), or eta 0"
        )
    for step, (t, s) in enumerate(pairwise(timesteps)):
        z, predicted = yield z, t
        arrived = PATH.advance(z, predicted, t, s)
        if noise is not None and eta > 0 and s < 1:
            remembered = t * (1 - s) / (s * (1 - t))  # e^(−h), without an infinity at t = 0
            fresh = eta * math.sqrt(1 - remembered**2)
            old = (z - t * predicted) / (1 - t)
            change = (math.sqrt(1 - fresh**2) - 1) * old + fresh * noise(step).to(z)
            arrived = arrived + (1 - s) * change
        z = arrived
    return z


def dopri5(
    mean: MeanFunction,
    z: Tensor,
    timesteps: Timesteps,
    rtol: float = SolverOptions.rtol,
    atol: float = SolverOptions.atol,
    *,
    step_end: SolverStepEnd | None = None,
) -> Tensor:
    """Dormand and Prince's adaptive method of order 5, by torchdiffeq; only the ends of the timesteps matter.

    In the time u = −log(1 − t) the equation is dz/du = μ − z: regular, and slow where t → 1. It is integrated
    to t = 1 − 1e-4 and finished with one step onto the posterior mean there; a range that ends before that is
    integrated to its end. A step must meet the tolerance on every image of the batch, not on their average;
    its length is still shared, so images agree across batch sizes within the tolerance, not bit for bit.
    The number of evaluations depends on the posterior: 6 for each attempted step, and 3 more.

    Args:
        mean: as in :func:`euler`, as are z and the result.
        z: the state at ``timesteps[0]``.
        timesteps: times of which the first and the last are used.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        step_end: called once, with the state at the end.

    Raises:
        InputError: a tolerance is not positive, or no step within reach meets it.
    """
    odeint = require("torchdiffeq", "solver dopri5").odeint
    check_tolerances(rtol, atol)
    start, end = timesteps[0], min(timesteps[-1], ADAPTIVE_END)
    if start < end:
        # Time as float64, and the last step cut to the end: the mean is never asked for beyond it.
        span = -torch.log1p(-torch.tensor([start, end], dtype=torch.float64, device=z.device))
        limits = {"norm": _worst_image, "step_t": span[1:], "max_num_steps": ADAPTIVE_STEPS}

        def derivative(u: Tensor, state: Tensor) -> Tensor:
            return mean(state, min(-math.expm1(-float(u)), end)) - state

        try:
            z = odeint(derivative, z, span, rtol=rtol, atol=atol, method="dopri5", options=limits)[-1]
        except AssertionError as error:  # torchdiffeq's way to say that it gives up
            raise InputError(
                f"dopri5 cannot meet rtol {rtol}, atol {atol} in {z.dtype} within {ADAPTIVE_STEPS} steps, or "
                "a prediction is not finite: use larger tolerances, or a solver with fixed steps"
            ) from error
    latest = max(start, end)
    if timesteps[-1] > end:
        z = PATH.advance(z, mean(z, latest), latest, 1.0)
    return z if step_end is None else step_end(0, latest, z)[0]


def _log_snr(t: float) -> float:
    return math.log(t / (1 - t))


def _worst_image(error: Tensor) -> Tensor:
    """Root mean square over each image of ``[B, …]``, the largest in the batch."""
    return error.abs().square().flatten(1).mean(1).max().sqrt() if error.dim() > 1 else error.abs().max()


SOLVERS: dict[str, Callable[[SolverOptions, NoiseFunction | None], Solver]] = {
    "euler": lambda options, noise: euler,
    "heun": lambda options, noise: heun,
    "midpoint": lambda options, noise: midpoint,
    "dpmpp_2m": lambda options, noise: dpmpp_2m,
    "stochastic": lambda options, noise: stochastic.bind(noise=noise, eta=options.eta),
    "dopri5": lambda options, noise: partial(dopri5, rtol=options.rtol, atol=options.atol),
}
"""For each name, a function that binds options and noise to the solver."""


def get_solver(name: str, options: SolverOptions | None = None, noise: NoiseFunction | None = None) -> Solver:
    """The solver of that name, with its options and noise bound to it.

    Args:
        name: a key of ``SOLVERS``.
        options: eta and tolerances; solvers without such an option ignore them.
        noise: for ``stochastic``; see :func:`stochastic`.

    Raises:
        InputError: there is none of that name; the nearest known name is suggested.
    """
    check_named("solver", name, SOLVERS)
    return SOLVERS[name](options or SolverOptions(), noise)
