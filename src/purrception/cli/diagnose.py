"""Diagnosis on the command line. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import parse, target_of
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class DiagnoseOptions:
    """What ``purrception diagnose`` takes."""

    only: str = ""
    """Parts, separated by commas: uncertainty, calibration, codebook, drift, oracle, smoothness, bound,
    temperature; default: all that apply."""
    num: int = 300
    """Images a measurement takes, at most; samples are as many."""
    seed: int = 0
    """Of noise and samples."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""
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
    """As for compare."""
    seeds: int = 3
    """Trainings of each objective on each set."""
    steps: int = 1500
    """Of each training."""
    num: int = 500
    """Images generated per measurement."""
    out: str = "suites/000"
    """Folder; the same command goes on with an interrupted suite."""


def diagnose(arguments: list[str]) -> None:
    """``purrception diagnose``: what a run does not know, or the suite of comparisons."""
    from purrception.cli import VERBS

    verb = VERBS["diagnose"]
    if "--suite" in arguments:
        return _suite([argument for argument in arguments if argument != "--suite"])
    target, rest = target_of(verb, arguments)
    options = parse(DiagnoseOptions, verb, rest)
    from purrception.diagnose.loaded_run import load_run
    from purrception.diagnose.run import choose_parts
    from purrception.diagnose.run import diagnose as run_diagnosis
    from purrception.storage import output_folder
    from purrception.utils.devices import resolve_device

    only = [name.strip() for name in options.only.split(",") if name.strip()]
    choose_parts(only)
    run = load_run(target, options.num, options.seed, resolve_device(options.device))
    with output_folder(options.out, run.directory.diagnostics, keep=True) as folder:
        report = run_diagnosis(run, only, folder)
    print(f"report: {report}")
    return None


def _suite(arguments: list[str]) -> None:
    from purrception.cli import VERBS

    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"--suite compares trainings of its own and takes no run; given {arguments[0]}: leave it out, "
            f"or --suite"
        )
    options = parse(SuiteOptions, VERBS["diagnose"], arguments)
    from purrception.comparison.entries import parse_entries
    from purrception.comparison.run import Protocol
    from purrception.comparison.suite import suite

    entries = tuple(parse_entries(options.objectives))
    protocol = Protocol(entries, options.seeds, points=1, num=options.num, tune=False)
    names = [*options.sets, *options.folders]
    print(f"report: {suite(names, protocol, options.steps, Path(options.out))}")
