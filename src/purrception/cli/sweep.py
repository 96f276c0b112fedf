"""``purrception sweep``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb
from purrception.utils.settings import DeviceOptions


@dataclass(frozen=True, kw_only=True)
class SweepOptions(DeviceOptions):
    """What ``purrception sweep`` takes: every combination is sampled from the same noise."""

    RENAMED: ClassVar[dict[str, str]] = {"grids": "timestep_spacings"}

    temperatures: tuple[str, ...] = ()
    """Temperatures, numbers or schedules; default: 1.0 0.9 0.8 0.7, where there is a posterior."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales."""
    steps: tuple[int, ...] = (4, 8, 16, 64)
    """Numbers of steps."""
    solvers: tuple[str, ...] = ()
    """Solvers; default: euler and dpmpp_2m, as far as the objective has them."""
    timestep_spacings: tuple[str, ...] = ("uniform",)
    """Spacings of the timesteps."""
    num: int = 500
    """Number of images per combination."""
    seed: int = 0
    """Seed of the noise."""
    out: str = ""
    """Folder for the report; default: RUN/sweeps/000, 001, …"""


def sweep(verb: Verb, arguments: list[str]) -> None:
    """Measure one run under many sampling settings."""
    target, rest = target_of(verb, arguments)
    options = parse(SweepOptions, verb, rest)
    from purrception.comparison.sweep import SweepSpace
    from purrception.comparison.sweep import sweep as run_sweep
    from purrception.storage import output_folder
    from purrception.training import RunDirectory

    space = SweepSpace(
        options.temperatures, options.guidances, options.steps, options.solvers, options.timestep_spacings
    )
    with output_folder(options.out, RunDirectory(target).sweeps) as folder:
        report = run_sweep(target, space, options.num, options.seed, folder, options.device)
    print(f"report: {report}")
