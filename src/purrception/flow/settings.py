"""How to sample: the one definition of its settings; commands, files, the pipeline and the page derive theirs.

Reading the fields needs no PyTorch, so that a command can explain its options at once; building does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from purrception.flow.limits import (
    LAST_STEP_NAMES,
    SOLVER_NAMES,
    check_eta,
    check_guidance,
    check_named,
    check_tolerances,
    check_truncation,
)
from purrception.flow.temperature import TemperatureSchedule
from purrception.flow.timesteps import Timesteps, get_timesteps
from purrception.utils.errors import InputError
from purrception.utils.settings import check_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from purrception.flow.guidance import Guidance
    from purrception.flow.last_step import LastStep
    from purrception.flow.network import PredictionOptions
    from purrception.flow.solvers import NoiseFunction, Solver
    from purrception.flow.truncation import Truncation


@dataclass(frozen=True)
class SamplingConfig:
    """How to go from noise to codes."""

    OPTIONS: ClassVar[dict[str, str]] = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
    """What fields are called on the command line, where it is not their own name."""
    RENAMED: ClassVar[dict[str, str]] = {
        "steps": "num_inference_steps",
        "grid": "timestep_spacing",
        "guidance": "guidance_scale",
        "strength": "eta",
    }
    """Names that fields had in older files and commands."""

    num_inference_steps: int = 50
    """Number of steps from noise to data."""
    solver: str = "euler"
    """Solver of the flow: euler, heun, midpoint, dpmpp_2m, stochastic or dopri5."""
    timestep_spacing: str = "uniform"
    """How the timesteps are spaced: uniform, cosine, shifted or log_snr."""
    temperature: float | str = 1.0
    """Temperature τ of the posterior, sharper below 1: a number, or a schedule over t such as linear:1.0:0.7."""
    top_k: int = 0
    """Number of most probable codes kept at each site; 0 keeps all."""
    top_p: float = 1.0
    """Probability kept at each site, in as few codes as possible; 1 keeps all."""
    guidance_scale: float = 1.0
    """Classifier-free guidance: 0 is unconditional, 1 conditional, and above 1 the class is exaggerated."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Interval of time in which guidance acts; elsewhere its scale is 1."""
    guidance_space: Literal["logits", "mean"] = "logits"
    """Where guidance acts: on the logits, with one pass through the head, or on the mean, with two."""
    last_step: str = "nearest"
    """How codes are chosen at t = 1: nearest (as in the paper), argmax or draw."""
    eta: float = 0.5
    """Share of the noise that solver stochastic draws again at each step; for dfm, the weight of its corrector."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of a step of solver dopri5."""
    redraw: bool = False
    """For dfm, as in the paper's code: known sites are drawn again as often as masked ones are drawn."""

    def __post_init__(self) -> None:
        """Refuse settings from which nothing can be built."""
        check_numbers(self, "sampling.", num_inference_steps=100_000)
        self.build_timesteps()
        self.build_temperature()
        check_named("solver", self.solver, SOLVER_NAMES)
        check_eta(self.eta)
        check_tolerances(self.tolerance, self.tolerance)
        check_truncation(self.top_k, self.top_p)
        check_guidance(self.guidance_scale, self.guidance_interval, self.guidance_space)
        check_named("last step", self.last_step, LAST_STEP_NAMES)

    def build_timesteps(self) -> Timesteps:
        """The points in time between which the solver steps."""
        return get_timesteps(self.timestep_spacing, self.num_inference_steps)

    def build_solver(self, noise: NoiseFunction | None) -> Solver:
        """The solver, with ``noise`` for the stochastic one."""
        from purrception.flow.solvers import SolverOptions, get_solver

        return get_solver(self.solver, SolverOptions(self.eta, rtol=self.tolerance, atol=self.tolerance), noise)

    def build_temperature(self) -> TemperatureSchedule:
        """τ as a function of t."""
        return TemperatureSchedule.parse(str(self.temperature))

    def build_truncation(self) -> Truncation:
        """What is kept of the posterior."""
        from purrception.flow.truncation import Truncation

        return Truncation(self.top_k, self.top_p)

    def build_guidance(self) -> Guidance:
        """Scale, interval and space of the guidance."""
        from purrception.flow.guidance import Guidance

        return Guidance(self.guidance_scale, self.guidance_interval, self.guidance_space)

    def build_last_step(self) -> LastStep:
        """How codes are chosen at the end."""
        from purrception.flow.last_step import get_last_step

        return get_last_step(self.last_step)

    def options_at(self, t: float, uniforms: Tensor | None = None) -> PredictionOptions:
        """How the model is evaluated at ``t``; ``uniforms`` ``[B, h, w]`` draw a code of each site."""
        from purrception.flow.network import PredictionOptions

        temperature = self.build_temperature()(t)
        return PredictionOptions(temperature, self.build_truncation(), self.build_guidance(), uniforms)

    def posterior_settings(self) -> dict[str, object]:
        """The settings that act on a posterior and differ from their neutral values, by name."""
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "last_step": "nearest"}
        values = {name: getattr(self, name) for name in neutral}
        if self.build_temperature() == TemperatureSchedule.parse("1.0"):
            values["temperature"] = 1.0
        return {name: value for name, value in values.items() if value != neutral[name]}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which objective, and the settings of its loss."""

    name: str = "purrception"
    """Name of the objective: purrception, cfm, cfm-endpoint or dfm."""
    z_loss: float = 1e-5
    """Weight λ_z of logsumexp(logits)², which keeps logits from drifting; for objectives with logits."""
    sites: Literal["masked", "all"] = "masked"
    """For dfm, the sites that count in the loss: masked ones, or all, as in the paper's code."""
    embedding: Literal["codebook", "learned"] = "codebook"
    """For dfm, how a code enters the network: as its vector in the codebook, or as a learned vector of the
    network's width, as in the paper's code."""

    def __post_init__(self) -> None:
        """Refuse a negative weight, which would reward drift."""
        if self.z_loss < 0:
            raise InputError(f"objective.z_loss is at least 0; given {self.z_loss}")


def public_sampling(objective: str) -> SamplingConfig:
    """How the public implementation samples: 100 timesteps, which are 99 Euler steps, without guidance."""
    return SamplingConfig(num_inference_steps=99, redraw=objective == "dfm")
