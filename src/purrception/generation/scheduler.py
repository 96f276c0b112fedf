"""The scheduler of a pipeline: its sampling settings, and its solvers with the interface of diffusers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from purrception.flow import LinearPath, SamplingConfig, Timesteps
from purrception.flow.solvers import FixedStepSolver, NoiseFunction, Steps, resume
from purrception.storage import load_settings, read_json
from purrception.storage.pipeline_folder import SAMPLING, SCHEDULER
from purrception.storage.settings import settings_from_dict
from purrception.utils.errors import InputError

SETTINGS = {setting.name: setting for setting in fields(SamplingConfig)}
"""The settings of sampling by name."""
SAME_TIME = 1e-6
"""How much two times may differ that are meant to be equal, such as one that was rounded to float32."""

F = TypeVar("F", bound=Callable[..., Any])


def with_settings(call: F, *, optional: bool = False) -> F:
    """List every setting in the signature of ``call`` in place of its ``**`` parameter.

    Editors, ``help`` and diffusers read the signature.

    Args:
        call: the function.
        optional: whether settings that are not given are ``None``, rather than the defaults.
    """
    signature = inspect.signature(call)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, setting in SETTINGS.items():
        default, kind = (None, f"{setting.type} | None") if optional else (setting.default, setting.type)
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        )
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


class PurrceptionScheduler(SchedulerMixin, ConfigMixin):
    """How a pipeline samples when nothing else is asked for, and its solvers for a loop of one's own.

    The configuration holds the settings of :class:`purrception.flow.SamplingConfig`, under the same names. It is
    saved with the pipeline, whose call takes it as its defaults.

    In a loop of one's own, the model's output is the data prediction μ of the pipeline's ``predict``, and time
    goes from 0 (noise) to 1 (data)::

        scheduler.set_timesteps(12)
        for t in scheduler.timesteps:
            z = scheduler.step(pipe.predict(z, t, labels).mean, t, z).prev_sample

    Raises:
        InputError: an unknown solver, or a number out of its range.
    """

    init_noise_sigma = 1.0
    """Standard deviation of the noise at t = 0."""

    @with_settings
    def __init__(self, **settings: Any) -> None:
        settings = asdict(SamplingConfig()) | settings
        settings["guidance_interval"] = tuple(settings["guidance_interval"])  # a list in files
        self.register_to_config(**asdict(SamplingConfig(**settings)))
        self.num_inference_steps: int | None = None
        self.timesteps: Tensor | None = None
        """The t of each evaluation of the model, increasing, float64 (float32 on a device without); set by
        :meth:`set_timesteps`."""
        self._grid: Timesteps = ()
        self._steps: Steps | None = None
        self._t: float | None = None
        self._generator: torch.Generator | list[torch.Generator] | None = None

    @classmethod
    def of(cls, settings: SamplingConfig) -> Self:
        """The scheduler with these settings."""
        return cls(**asdict(settings))

    @property
    def settings(self) -> SamplingConfig:
        """The settings in the configuration."""
        return SamplingConfig(**{name: self.config[name] for name in SETTINGS})

    @property
    def order(self) -> int:
        """Evaluations of the model in a step."""
        return 1 if self.timesteps is None else math.ceil(len(self.timesteps) / (self.num_inference_steps or 1))

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Choose the timesteps of a loop, which begins anew.

        Args:
            num_inference_steps: number of steps; by default the configured one.
            device: where ``timesteps`` are.

        Raises:
            InputError: fewer than one step, or a solver whose steps nobody else can take.
        """
        self.num_inference_steps = num_inference_steps or self.settings.num_inference_steps
        self._grid = replace(self.settings, num_inference_steps=self.num_inference_steps).build_timesteps()
        times = self._solver(lambda step: torch.zeros(1, 1)).evaluations(self._grid)
        kind = torch.float32 if str(device).startswith("mps") else torch.float64
        self.timesteps = torch.tensor(times, dtype=kind, device=device)
        self._steps = None

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """The state as it is: the network takes it unscaled."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from ``sample`` to the state of the next evaluation or, after the last, to t = 1.

        A loop may begin at a later time than 0. What is computed is float32.

        Args:
            model_output: the data prediction ``[B, D, h, w]`` at ``sample``.
            timestep: t of that evaluation: the entries of ``timesteps`` in their order.
            sample: the state ``[B, D, h, w]``; it may differ from the one that the last step returned.
            generator: where solver stochastic takes its noise from.
            return_dict: return an object with ``prev_sample`` rather than a tuple.

        Raises:
            InputError: before :meth:`set_timesteps`, or for another time than the next one.
        """
        t = float(timestep)
        if self._steps is None:
            self._begin(t, sample)
        if self._steps is None or self._t is None or abs(t - self._t) > SAME_TIME:
            raise InputError(
                f"the next evaluation is at t = {self._t}; given {t}: take the timesteps in their order, or call "
                "set_timesteps to begin anew"
            )
        self._generator = generator
        state, self._t = resume(self._steps, (sample.float(), model_output.float()))
        if self._t is None:
            self._steps = None
        state = state.to(sample.dtype)
        return SchedulerOutput(prev_sample=state) if return_dict else (state,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The path z_t = t z_1 + (1 − t) z_0 from noise to data.

        Args:
            original_samples: the data z_1, ``[B, D, h, w]``.
            noise: z_0, of the same shape.
            timesteps: t, ``[B]`` or one for all.
        """
        t = timesteps.to(original_samples.device).flatten().expand(len(original_samples))
        return LinearPath().sample(original_samples, noise, t).z_t.to(original_samples.dtype)

    def _begin(self, t: float, sample: Tensor) -> None:
        """Set the solver to work at the timestep nearest to ``t``, or at ``t`` itself."""
        if not self._grid:
            raise InputError("call set_timesteps before the first step")
        nearest = min(self._grid, key=lambda s: abs(s - t))
        start = nearest if abs(nearest - t) <= SAME_TIME else t
        if not 0 <= start < 1:
            raise InputError(f"a loop begins at a time from 0 to below 1; given {t}")

        def noise(step: int) -> Tensor:
            return draw(torch.randn, sample.shape, self._generator, sample.device)

        self._steps = self._solver(noise).steps(sample.float(), (start, *(s for s in self._grid if s > start)))
        _, self._t = resume(self._steps)

    def _solver(self, noise: NoiseFunction) -> FixedStepSolver:
        solver = self.settings.build_solver(noise)
        if not isinstance(solver, FixedStepSolver):
            raise InputError(
                f"{self.settings.solver} chooses its steps from the data, so nobody else can take them: call the "
                "pipeline, or use a solver with fixed steps, such as dpmpp_2m"
            )
        return solver

    def __getstate__(self) -> dict[str, Any]:
        """Without the solver at work, which cannot be copied."""
        return vars(self) | {"_steps": None}


def draw(
    kind: Callable[..., Tensor],
    shape: torch.Size | tuple[int, ...],
    generator: torch.Generator | list[torch.Generator] | None,
    device: torch.device,
) -> Tensor:
    """Random numbers float32 ``[B, …]`` from one of torch's generators, or from one for each image.

    They are drawn where the generator is, as in diffusers, and then moved.

    Args:
        kind: ``torch.randn`` or ``torch.rand``.
        shape: ``[B, …]``.
        generator: torch's own if there is none.
        device: where the numbers are needed.
    """
    if isinstance(generator, list):
        return torch.cat([draw(kind, (1, *shape[1:]), one, device) for one in generator])
    where = device if generator is None else generator.device
    return kind(tuple(shape), generator=generator, device=where).to(device)


def saved_settings(folder: Path) -> SamplingConfig:
    """The sampling settings of a saved pipeline: its scheduler's; those of an earlier version; or the defaults.

    Raises:
        InputError: they are damaged.
    """
    file = folder / SCHEDULER
    if file.is_file():
        values: dict[str, Any] = read_json(file, dict[str, Any], "the configuration of a scheduler")
        if values.get("_class_name") != PurrceptionScheduler.__name__:
            raise InputError(
                f"{file} is of a {str(values.get('_class_name'))[:100]!r}, expected PurrceptionScheduler"
            )
        own = {name: value for name, value in values.items() if not name.startswith("_")}
        return settings_from_dict(SamplingConfig, own, str(file))
    return load_settings(SamplingConfig, folder / SAMPLING) if (folder / SAMPLING).is_file() else SamplingConfig()
