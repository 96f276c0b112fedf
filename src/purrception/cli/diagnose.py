"""``purrception diagnose``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb
from purrception.utils.errors import InputError
from purrception.utils.settings import DeviceOptions


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(DeviceOptions):
    """What ``purrception diagnose`` takes."""

    only: str = ""
    """Which parts, separated by commas: uncertainty, calibration, codebook, drift, oracle, smoothness, bound,
    temperature; default: all that apply."""
    num: int = 300
    """Most images that a measurement takes; as many are sampled."""
    seed: int = 0
    """Seed of noise and samples."""
    out: str = ""
    """Folder for the report; default: RUN/diagnostics/000, 001, …"""


@dataclass(frozen=True)
class SuiteOptions:
    """What ``purrception diagnose --suite`` takes: the objectives compared on several sets of images."""

    sets: tuple[str, ...] = ("digits@16", "digits@32", "photos@32", "photos@48")
    """Embedded images and their size in pixels."""
    folders: tuple[str, ...] = ()
    """Folders of images with class subfolders; sizes are chosen from the images, or follow an @."""
    objectives: str = "purrception,cfm,cfm-endpoint,dfm"
    """What is compared, separated by commas; see purrception compare."""
    seeds: int = 3
    """Number of trainings of each objective on each set."""
    steps: int = 1500
    """Steps of each training."""
    num: int = 500
    """Number of images generated per measurement."""
    out: str = "suites/000"
    """Folder; the same command goes on with an interrupted suite."""


def diagnose(verb: Verb, arguments: list[str]) -> None:
    """Examine a run, or compare the objectives on several sets of images."""
    if "--suite" in arguments:
        _suite(verb, [argument for argument in arguments if argument != "--suite"])
        return
    target, rest = target_of(verb, arguments)
    options = parse(DiagnoseOptions, verb, rest)
    from purrception.diagnose.loaded_run import load_run
    from purrception.diagnose.run import choose_parts
    from purrception.diagnose.run import diagnose as run_diagnosis
    from purrception.storage import output_folder
    from purrception.utils.devices import resolve_device
    from purrception.utils.packages import require
    from purrception.utils.terminal import for_terminal

    require("matplotlib", "the picture of a report")
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    choose_parts(only)
    run = load_run(target, options.num, options.seed, resolve_device(options.device))
    with output_folder(options.out, run.directory.diagnostics, keep=True) as folder:
        report = run_diagnosis(run, only, folder)
    print(for_terminal(report.read_text(encoding="utf-8")) + f"\n\nreport: {report}")


def _suite(verb: Verb, arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"--suite compares trainings of its own and takes no run; given {arguments[0]}: leave it out, "
            f"or --suite"
        )
    options = parse(SuiteOptions, verb, arguments)
    from purrception.comparison.entries import parse_entries
    from purrception.comparison.run import Protocol
    from purrception.comparison.suite import suite
    from purrception.utils.terminal import for_terminal

    entries = tuple(parse_entries(options.objectives))
    protocol = Protocol(entries, options.seeds, points=1, num=options.num, tune=False)
    names = [*options.sets, *options.folders]
    report = suite(names, protocol, options.steps, Path(options.out))
    print(for_terminal(report.read_text(encoding="utf-8"), "At the end of training") + f"\n\nreport: {report}")
