"""How to sample: plain values, as in a file or on a command line, and the objects built from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from purrception.flow.guidance import Guidance
from purrception.flow.last_step import LastStep, get_last_step
from purrception.flow.network import PredictionOptions
from purrception.flow.solvers import NoiseFunction, Solver, SolverOptions, get_solver
from purrception.flow.temperature import TemperatureSchedule
from purrception.flow.timesteps import Timesteps, get_timesteps
from purrception.flow.truncation import Truncation
from purrception.utils.errors import check_numbers


@dataclass(frozen=True)
class SamplingConfig:
    """How to go from noise to codes."""

    RENAMED: ClassVar[dict[str, str]] = {
        "steps": "num_inference_steps",
        "grid": "timestep_spacing",
        "guidance": "guidance_scale",
        "strength": "eta",
    }

    num_inference_steps: int = 50
    """Number of steps from noise to data."""
    solver: str = "euler"
    """euler, heun, midpoint, dpmpp_2m, stochastic or dopri5."""
    timestep_spacing: str = "uniform"
    """How the steps are spaced in time: uniform, cosine, shifted or log_snr."""
    temperature: float | str = 1.0
    """Temperature of the posterior, below 1 sharper: a number, or a schedule over t such as linear:1.0:0.7."""
    top_k: int = 0
    """Number of codes kept per site, the most probable ones; 0 keeps all."""
    top_p: float = 1.0
    """Probability kept per site, in the fewest codes; 1 keeps all."""
    guidance_scale: float = 1.0
    """Strength of the class: 1 conditional, 0 unconditional, above 1 exaggerated."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times between which guidance is applied."""
    guidance_space: Literal["logits", "mean"] = "logits"
    """Where guidance acts: in the logits, with one head pass, or in the mean, with two."""
    last_step: str = "nearest"
    """How a code is chosen at t = 1: nearest (the paper's), argmax or draw."""
    eta: float = 0.5
    """Share of the noise that solver stochastic draws anew; for dfm, the weight of its corrector."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of a step of solver dopri5."""
    redraw: bool = False
    """For dfm, sample as the paper's code does: known sites are redrawn as often as masked ones are drawn."""

    def __post_init__(self) -> None:
        """Refuse settings from which nothing can be built."""
        check_numbers(self, "sampling.", num_inference_steps=100_000)
        self.build_timesteps()
        self.build_solver(None)
        self.build_temperature()
        self.build_truncation()
        self.build_guidance()
        self.build_last_step()

    def build_timesteps(self) -> Timesteps:
        """The N + 1 times between which the solver takes its steps."""
        return get_timesteps(self.timestep_spacing, self.num_inference_steps)

    def build_solver(self, noise: NoiseFunction | None) -> Solver:
        """The solver; ``noise`` is for the stochastic one."""
        return get_solver(self.solver, SolverOptions(self.eta, rtol=self.tolerance, atol=self.tolerance), noise)

    def build_temperature(self) -> TemperatureSchedule:
        """τ as a function of t."""
        return TemperatureSchedule.parse(str(self.temperature))

    def build_truncation(self) -> Truncation:
        """Which codes of the posterior are kept."""
        return Truncation(self.top_k, self.top_p)

    def build_guidance(self) -> Guidance:
        """The guidance: scale, interval and space."""
        return Guidance(self.guidance_scale, self.guidance_interval, self.guidance_space)

    def build_last_step(self) -> LastStep:
        """The function that chooses the codes at the end."""
        return get_last_step(self.last_step)

    def options_at(self, t: float, uniforms: Tensor | None = None) -> PredictionOptions:
        """How the model is evaluated at ``t``; ``uniforms`` ``[B, h, w]`` draw a code of each site."""
        temperature = self.build_temperature()(t)
        return PredictionOptions(temperature, self.build_truncation(), self.build_guidance(), uniforms)

    def posterior_settings(self) -> dict[str, object]:
        """The settings that act on a posterior and differ from their neutral values, by name."""
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "last_step": "nearest"}
        values = {name: getattr(self, name) for name in neutral}
        if self.build_temperature() == TemperatureSchedule.parse("1.0"):
            values["temperature"] = 1.0
        return {name: value for name, value in values.items() if value != neutral[name]}
