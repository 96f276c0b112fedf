"""``purrception sweep``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from purrception.cli.parsing import check_can_draw, flat, parse, target_of
from purrception.cli.verbs import Verb
from purrception.comparison.settings import SweepSpace
from purrception.training import RunDirectory
from purrception.utils.settings import DeviceOptions


@dataclass(frozen=True, kw_only=True)
class SweepOptions(DeviceOptions):
    """What ``purrception sweep`` takes: every combination is sampled from the same noise."""

    space: SweepSpace = field(metadata=flat())
    num: int = 500
    """Number of images per combination."""
    seed: int = 0
    """Seed of the noise."""
    out: str = ""
    """Folder for the report. Default: RUN/sweeps/000, 001, …"""


def sweep(verb: Verb, arguments: list[str]) -> None:
    """Measure one run under many sampling settings."""
    target, rest = target_of(verb, arguments)
    options = parse(SweepOptions, verb, rest)
    RunDirectory.open(target)
    from purrception.comparison.sweep import BEST_PRESET, FAST_PRESET
    from purrception.comparison.sweep import sweep as run_sweep
    from purrception.storage import output_folder
    from purrception.utils.terminal import for_terminal
    from purrception.utils.text import command_line

    check_can_draw()
    with output_folder(options.out, RunDirectory(target).sweeps) as folder:
        report = run_sweep(target, options.space, options.num, options.seed, folder, options.device)
    print(for_terminal(report.read_text(encoding="utf-8")), end="\n\n")
    for name, preset in (("best", BEST_PRESET), ("fast", FAST_PRESET)):
        print(f"{name}: {command_line(['sample', target], {'preset': str(report.parent / preset)})}")
    print(f"report: {report}")
