"""``purrception diagnose``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from purrception.cli.compare import OBJECTIVES
from purrception.cli.parsing import check_can_draw, names_in, parse, say_report, target_of
from purrception.cli.verbs import Verb
from purrception.comparison.settings import Protocol, different
from purrception.training import RunDirectory
from purrception.utils.errors import InputError
from purrception.utils.settings import DeviceOptions

SUITE_EXAMPLE = "purrception diagnose --suite --sets digits@16 photos@32 --seeds 3 --training-steps 1500"


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(DeviceOptions):
    """What ``purrception diagnose`` takes."""

    suite: bool = False
    """Compare the objectives on several sets of images, in place of examining a run; see --suite --help."""
    only: tuple[str, ...] = ()
    """Which parts: uncertainty, calibration, codebook, drift, oracle, smoothness, bound, temperature. Default: all
    that apply."""
    num: int = 300
    """Most images that a measurement takes; as many are sampled."""
    seed: int = 0
    """Seed of noise and samples."""
    out: str = ""
    """Folder for the report. Default: RUN/diagnostics/000, 001, …"""


@dataclass(frozen=True)
class SuiteOptions:
    """What ``purrception diagnose --suite`` takes: the objectives compared on several sets of images."""

    OPTIONS: ClassVar[dict[str, str]] = {"steps": "training_steps"}
    """What a field is called on the command line, where it is not its own name."""

    sets: tuple[str, ...] = ("digits@16", "digits@32", "photos@32", "photos@48")
    """Embedded images and their size in pixels."""
    folders: tuple[str, ...] = ()
    """Folders of images with class subfolders; sizes are chosen from the images, or follow an @."""
    objectives: tuple[str, ...] = OBJECTIVES
    """What is compared; see purrception compare."""
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
        of_suite = replace(verb, name=f"{verb.name} --suite", usage="", example=SUITE_EXAMPLE)
        _suite(of_suite, [argument for argument in arguments if argument != "--suite"])
        return
    target, rest = target_of(verb, arguments)
    options = parse(DiagnoseOptions, verb, rest)
    RunDirectory.open(target)
    from purrception.diagnose.loaded_run import load_run
    from purrception.diagnose.run import choose_parts
    from purrception.diagnose.run import diagnose as run_diagnosis
    from purrception.storage import output_folder
    from purrception.utils.devices import resolve_device

    check_can_draw()
    only = names_in(options.only)
    choose_parts(only)
    run = load_run(target, options.num, options.seed, resolve_device(options.device))
    with output_folder(options.out, run.directory.diagnostics, keep=True) as folder:
        report = run_diagnosis(run, only, folder)
    say_report(report.read_text(encoding="utf-8"), report)


def _suite(verb: Verb, arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"--suite compares trainings of its own and takes no run; given {arguments[0]}: leave it out, "
            f"or --suite"
        )
    options = parse(SuiteOptions, verb, arguments)
    from purrception.comparison.suite import suite

    entries = tuple(different(names_in(options.objectives)))
    protocol = Protocol(entries, options.seeds, points=1, num=options.num, tune=False)
    names = [*options.sets, *options.folders]
    report = suite(names, protocol, options.steps, Path(options.out))
    say_report(report.read_text(encoding="utf-8"), report, "At the end of training")
