"""The layout of a run on disk."""

from __future__ import annotations

import difflib
from pathlib import Path

from purrception.storage.names import CONFIG_FILE, HUB_PREFIX, INDEX_FILE
from purrception.utils.errors import InputError
from purrception.utils.text import command_line

RUNS, PIPELINES = "runs", "pipelines"
"""Where runs and exported pipelines are kept, unless another folder is given."""


class RunDirectory:
    """The paths inside ``runs/NAME/``.

    Args:
        root: the folder of the run.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.config_file = self.root / "config.yaml"
        """The resolved configuration."""
        self.metrics_file = self.root / "metrics.jsonl"
        """Metrics of training, one JSON object per line."""
        self.warm_start = self.root / "init-from.md"
        """What became of each weight of the pipeline that training started from."""
        self.tokenizer = self.root / "tokenizer"
        """The tokenizer of this run."""
        self.tokens = self.root / "tokens"
        """Token shards, in a folder for each split: ``train/`` and ``test/``."""
        self.checkpoints = self.root / "checkpoints"
        """``step-00001000/`` and so on."""
        self.samples = self.root / "samples"
        """Grids of samples drawn from fixed noise during training."""
        self.pipeline = self.root / "pipeline"
        """The finished pipeline, in diffusers' layout."""
        self.generated = self.root / "generated"
        """What ``purrception sample`` writes: ``000/``, ``001/`` and so on, as in the folders below."""
        self.edited = self.root / "edited"
        """What ``purrception edit`` writes."""
        self.evaluation = self.root / "evaluation"
        """Reports of ``purrception evaluate``."""
        self.evaluation_samples = self.evaluation / "samples"
        """Samples that evaluations share."""
        self.sweeps = self.root / "sweeps"
        """Reports of ``purrception sweep``."""
        self.diagnostics = self.root / "diagnostics"
        """Reports of ``purrception diagnose``."""
        self.studio = self.root / "studio"
        """What ``purrception studio`` keeps: uploads and saved images."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether the run's tokenizer is complete."""
        return (self.tokenizer / CONFIG_FILE).is_file()

    @classmethod
    def create(cls, root: Path | str, config_yaml: str) -> RunDirectory:
        """Make a new run with its configuration; an existing run is never touched.

        Raises:
            InputError: the folder holds something already, or the disk is full.
        """
        from purrception.storage import write_file, writing

        run = cls(root)
        run.require_unused()
        with writing(run.root):
            run.root.mkdir(parents=True, exist_ok=True)
        write_file(run.config_file, config_yaml)
        return run

    def require_unused(self) -> None:
        """Refuse to start a run where something is already.

        Raises:
            InputError: the folder holds something.
        """
        from purrception.storage import is_unused

        if not is_unused(self.root):
            resume = command_line(["train", "--resume", str(self.root)])
            go_on = f"go on with it by {resume}, or " if self.config_file.is_file() else ""
            raise InputError(f"{self.root} is already there and not empty: {go_on}choose another --name or --out")

    @classmethod
    def open(cls, root: Path | str) -> RunDirectory:
        """Open an existing run.

        Raises:
            InputError: there is no run at that place.
        """
        run = cls(root)
        if not run.config_file.is_file():
            raise no_run(root)
        return run


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline in diffusers' layout."""
    return (folder / INDEX_FILE).is_file()


def check_target(target: str) -> None:
    """Refuse a target that cannot be sampled from, before anything heavy is imported.

    Raises:
        InputError: it is no run, no pipeline and no address of the hub; the message names those that are here.
    """
    if not target.startswith(HUB_PREFIX) and not is_pipeline(Path(target)):
        RunDirectory.open(target)


def no_run(place: Path | str) -> InputError:
    """The error where no run is; it names the runs and pipelines that are here."""
    here = nearby()
    if not here:
        advice = f"there is none in {RUNS}/ either: {command_line(['train', 'digits'])} makes one"
    else:
        names = {Path(folder).name: folder for folder in here}
        close = difflib.get_close_matches(Path(place).name, names, n=1, cutoff=0.5)
        hint = f"did you mean {names[close[0]]!r}? " if close else ""
        advice = f"{hint}here are {', '.join(here[:8])}{', …' if len(here) > 8 else ''}"
    return InputError(f"no run at {place}: expected a folder with config.yaml, or that of a pipeline; {advice}")


def nearby() -> list[str]:
    """The runs in ``runs/`` and the pipelines in ``pipelines/`` of the working folder, latest first."""
    found = [file.parent for file in Path(RUNS).glob("*/config.yaml")]
    found += [file.parent for file in Path(PIPELINES).glob(f"*/{INDEX_FILE}")]
    return [str(folder) for folder in sorted(found, key=lambda folder: -folder.stat().st_mtime)]
