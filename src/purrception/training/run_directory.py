"""The layout of a run on disk."""

from __future__ import annotations

from pathlib import Path

from purrception.storage import is_unused, write_file, writing
from purrception.storage.pipeline_folder import INDEX_FILE
from purrception.tokenizers.saved import CONFIG_FILE
from purrception.utils.errors import InputError
from purrception.utils.text import command_line


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
            raise InputError(f"no run at {run.root}: expected a folder with config.yaml, such as runs/digits")
        return run


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline in diffusers' layout."""
    return (folder / INDEX_FILE).is_file()
