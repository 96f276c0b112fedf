"""All parts of a diagnosis, or some of them, on one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.diagnose.bound import bound_section
from purrception.diagnose.calibration import calibration_section
from purrception.diagnose.codebook import codebook_section
from purrception.diagnose.drift import drift_section
from purrception.diagnose.oracle import oracle_section
from purrception.diagnose.smoothness import smoothness_section
from purrception.diagnose.subject import LARGEST_ORACLE, Subject
from purrception.diagnose.temperature import temperature_section
from purrception.diagnose.uncertainty import uncertainty_section
from purrception.storage import whole_folder
from purrception.storage.report import Section, write_report
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar


@dataclass(frozen=True)
class Part:
    """One part, and what it needs of a run."""

    section: Callable[[Subject], Section]
    posterior: bool = False
    """A categorical posterior."""
    path: bool = False
    """The linear path from Gaussian noise: a velocity, an exact posterior."""
    held_out: bool = False
    """Images that were not trained on."""
    small: bool = False
    """A training set that can be looked through at every evaluation."""
    classes: bool = False
    """At least two classes, and the images themselves: a classifier judges."""

    def lacks(self, subject: Subject) -> str:
        """Why this part does not apply to a run, in a line; empty where it does."""
        name = subject.config.objective.name
        if self.posterior and not subject.has_posterior:
            return f"a {name!r} model gives a vector per site and has no posterior"
        if self.path and not subject.is_gaussian:
            return f"a {name!r} model unmasks codes: it has no velocity and no path from Gaussian noise"
        if self.held_out and subject.held_out is None:
            return "the run holds no images out (data.test_fraction was 0, or there is no tokens/test)"
        if self.small and len(subject.train) > LARGEST_ORACLE:
            return f"the exact posterior takes {LARGEST_ORACLE} training images at most, not {len(subject.train)}"
        if self.classes and subject.classes < 2:
            return "a classifier judges the samples, and these images have no classes"
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
    """The parts named, in the order of ``PARTS``; all of them where none is.

    Raises:
        InputError: there is no such part; the nearest known one is suggested.
    """
    for name in only:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    return [name for name in PARTS if not only or name in only]


def diagnose(subject: Subject, only: Sequence[str], folder: Path) -> Path:
    """Run the parts and write the report to ``folder``; returns its path.

    A part that does not apply to the run is left out of a whole diagnosis, and told. A diagnosis that an error or
    an interruption cuts short leaves the report of the parts it has done.

    Raises:
        InputError: a part that was asked for by name does not apply, or none of them does; the folder holds
            something, or the disk is full.
    """
    names = choose_parts(only)
    missing = {name: reason for name in names if (reason := PARTS[name].lacks(subject))}
    if only and missing:
        name, reason = next(iter(missing.items()))
        raise InputError(f"{name}: {reason}; leave it out of --only")
    wanted = [name for name in names if name not in missing]
    if not wanted:
        raise InputError(f"no part applies to this run: {'; '.join(missing.values())}")
    protocol = _protocol(subject, missing)
    headline = f"Diagnosis of {subject.config.name}"
    sections: dict[str, Section] = {}
    with whole_folder(folder, keep=True) as partial:
        try:
            _look(subject, wanted, missing, sections)
        finally:
            if sections:
                report = write_report(partial, headline, protocol, sections)
    return folder / report.name


def _look(subject: Subject, wanted: list[str], missing: dict[str, str], sections: dict[str, Section]) -> None:
    """Do the parts in turn, each into ``sections``."""
    with ProgressBar("diagnose", len(wanted)) as bar:
        for name, reason in missing.items():
            bar.note(f"without {name}: {reason}")
        for done, name in enumerate(wanted, start=1):
            bar.note(f"{name} …")
            began = time.monotonic()
            sections[name] = PARTS[name].section(subject)
            bar.note(f"{name}: {time.monotonic() - began:.0f} s")
            bar.update(done)


def _protocol(subject: Subject, missing: dict[str, str]) -> dict[str, str]:
    """What was looked at, and what was left out."""
    steps, latest = subject.config.training.steps, subject.step
    return {
        "run": str(subject.run.root),
        "objective": subject.config.objective.name,
        "training": f"{latest} of {steps} steps" + ("" if latest == steps else " (still under way, or stopped)"),
        "images": f"{len(subject.train)} trained on, {len(subject.held_out or ())} held out; at most "
        f"{subject.num} a measurement, seed {subject.seed}",
        **{f"left out: {name}": reason for name, reason in missing.items()},
    }
