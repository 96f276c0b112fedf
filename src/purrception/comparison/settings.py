"""What a comparison and a sweep cover; reading it needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

from purrception.flow.settings import SamplingConfig
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """What a comparison compares; saved with its results. Once begun, entries and seeds can only be added."""

    entries: tuple[str, ...]
    """Objectives, with changes behind plus signs; see :func:`purrception.comparison.entries.configure`."""
    seeds: int
    """Number of trainings of each, with seeds that follow the recipe's."""
    points: int
    """Number of measurements of each training, at steps √2 apart, the last at the end."""
    num: int
    """Number of images generated per measurement."""
    tune: bool
    """At the end, search a few sampling settings for each objective, and measure at the best ones."""

    def __post_init__(self) -> None:
        """Refuse an empty comparison."""
        if min(self.seeds, self.points) < 1 or self.num < 10:
            raise InputError(
                "a comparison needs at least 1 seed, 1 point and 10 images; given "
                f"{self.seeds}, {self.points} and {self.num}"
            )


@dataclass(frozen=True)
class SweepSpace:
    """The settings to combine; without temperatures or solvers, those usual for the objective are taken."""

    RENAMED: ClassVar[dict[str, str]] = {"grids": "timestep_spacings"}

    temperatures: tuple[str, ...] = ()
    """Temperatures, numbers or schedules; by default 1.0, 0.9, 0.8 and 0.7, where there is a posterior."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales."""
    steps: tuple[int, ...] = (4, 8, 16, 64)
    """Numbers of steps from noise to data."""
    solvers: tuple[str, ...] = ()
    """Solvers; by default euler and dpmpp_2m, where the objective supports them."""
    timestep_spacings: tuple[str, ...] = ("uniform",)
    """Where the steps lie: uniform, cosine, shifted or log_snr."""

    def __post_init__(self) -> None:
        """Refuse an axis with nothing on it."""
        for name in ("guidances", "steps", "timestep_spacings"):
            if not getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} needs at least one value; given none")

    def settings(self, base: SamplingConfig) -> list[SamplingConfig]:
        """Every combination, each a valid setting."""
        axes = self.temperatures, self.guidances, self.steps, self.solvers, self.timestep_spacings
        return [
            replace(
                base,
                temperature=temperature,
                guidance_scale=guidance,
                num_inference_steps=steps,
                solver=solver,
                timestep_spacing=spacing,
            )
            for temperature, guidance, steps, solver, spacing in product(*axes)
        ]


def different(entries: list[str]) -> list[str]:
    """The entries of a comparison.

    Raises:
        InputError: there are none, or one is given twice.
    """
    if not entries or len(set(entries)) < len(entries):
        raise InputError(f"a comparison takes different objectives; given {' '.join(entries) or 'none'}")
    return entries
