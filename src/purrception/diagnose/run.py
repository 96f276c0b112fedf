"""The parts of a diagnosis, and the report of all or some of them on one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.diagnose.bound import bound_section
from purrception.diagnose.calibration import calibration_section
from purrception.diagnose.codebook import codebook_section
from purrception.diagnose.drift import drift_section
from purrception.diagnose.loaded_run import LARGEST_ORACLE, LoadedRun
from purrception.diagnose.oracle import oracle_section
from purrception.diagnose.smoothness import smoothness_section
from purrception.diagnose.temperature import temperature_section
from purrception.diagnose.uncertainty import uncertainty_section
from purrception.flow import GaussianObjective
from purrception.storage import whole_folder
from purrception.storage.report import Section, write_report
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar


@dataclass(frozen=True)
class Part:
    """A part of the diagnosis, and what it needs of a run."""

    section: Callable[[LoadedRun], Section]
    posterior: bool = False
    """Needs a categorical posterior."""
    path: bool = False
    """Needs the linear path from Gaussian noise: a velocity, an exact posterior."""
    held_out: bool = False
    """Needs held-out images."""
    small: bool = False
    """Needs a training set small enough for the exact posterior."""
    classes: bool = False
    """Needs at least two classes, and the images themselves, for a classifier."""

    def lacks(self, run: LoadedRun) -> str:
        """Why this part does not apply to a run, in a line; empty if it does."""
        name = run.config.objective.name
        if self.posterior and run.objective.head_family != "categorical":
            return f"a {name!r} model predicts a vector per site and has no posterior"
        if self.path and not isinstance(run.objective, GaussianObjective):
            return f"a {name!r} model unmasks codes: it has no velocity and no path from Gaussian noise"
        if self.held_out and run.held_out is None:
            return "the run holds no images out (data.test_fraction was 0, or there is no tokens/test)"
        if self.small and len(run.train) > LARGEST_ORACLE:
            return f"the exact posterior takes {LARGEST_ORACLE} training images at most, not {len(run.train)}"
        if self.classes and run.classes < 2:
            return "the samples are classified, and these images have no classes"
        return ""


PARTS = {
    "uncertainty": Part(uncertainty_section, posterior=True, path=True),
    "calibration": Part(calibration_section, posterior=True, held_out=True),
    "codebook": Part(codebook_section),
    "drift": Part(drift_section, posterior=True),
    "oracle": Part(oracle_section, path=True, held_out=True, small=True),
    "smoothness": Part(smoothness_section, path=True),
    "bound": Part(bound_section, posterior=True, path=True, small=True),
    "temperature": Part(temperature_section, posterior=True, held_out=True, classes=True),
}


def choose_parts(only: Sequence[str]) -> list[str]:
    """The named parts in the order of ``PARTS``; all of them if none is named.

    Raises:
        InputError: a part is unknown; the nearest known name is suggested.
    """
    for name in only:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    return [name for name in PARTS if not only or name in only]


def diagnose(run: LoadedRun, only: Sequence[str], folder: Path) -> Path:
    """Run the parts, write the report to ``folder`` and return its path.

    A part that does not apply to the run is left out of a whole diagnosis, and the report says so. If an error or
    an interruption stops the diagnosis, the report holds the parts done so far.

    Raises:
        InputError: a part that is named in ``only`` does not apply, or no part does; the folder is not empty, or
            the disk is full.
    """
    names = choose_parts(only)
    missing = {name: reason for name in names if (reason := PARTS[name].lacks(run))}
    if only and missing:
        name, reason = next(iter(missing.items()))
        raise InputError(f"{name}: {reason}; leave it out of --only")
    applicable = [name for name in names if name not in missing]
    if not applicable:
        raise InputError(f"no part applies to this run: {'; '.join(missing.values())}")
    protocol = _protocol(run, missing)
    headline = f"Diagnosis of {run.config.name}"
    sections: dict[str, Section] = {}
    with whole_folder(folder, keep=True) as partial:
        try:
            _run_parts(run, applicable, missing, sections)
        finally:
            if sections:
                report = write_report(partial, headline, protocol, sections)
    return folder / report.name


def _run_parts(run: LoadedRun, names: list[str], missing: dict[str, str], sections: dict[str, Section]) -> None:
    """Run the named parts and add each to ``sections``; note the missing ones."""
    with ProgressBar("diagnose", len(names)) as bar:
        for name, reason in missing.items():
            bar.note(f"without {name}: {reason}")
        for done, name in enumerate(names, start=1):
            bar.note(f"{name} …")
            began = time.monotonic()
            sections[name] = PARTS[name].section(run)
            bar.note(f"{name}: {time.monotonic() - began:.0f} s")
            bar.update(done)


def _protocol(run: LoadedRun, missing: dict[str, str]) -> dict[str, str]:
    """What was measured, and what was left out."""
    steps, latest = run.config.training.steps, run.step
    return {
        "run": str(run.directory.root),
        "objective": run.config.objective.name,
        "training": f"{latest} of {steps} steps" + ("" if latest == steps else " (unfinished)"),
        "images": f"{len(run.train)} for training, {len(run.held_out or ())} held out; at most "
        f"{run.num} per measurement, seed {run.seed}",
        **{f"left out: {name}": reason for name, reason in missing.items()},
    }
