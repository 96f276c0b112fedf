"""The layout of a run on disk."""

from __future__ import annotations

from pathlib import Path

from purrception.storage import is_unused, write_file, writing
from purrception.utils.errors import InputError
from purrception.utils.text import command_line


class RunDirectory:
    """Paths inside ``runs/NAME/``; creating one never touches a run that is already there."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def config_file(self) -> Path:
        """The resolved configuration, YAML."""
        return self.root / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """``step-00001000/`` and so on."""
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        """Grids drawn from fixed noise while training."""
        return self.root / "samples"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of this run."""
        return self.root / "tokenizer"

    @property
    def pipeline(self) -> Path:
        """The finished pipeline, in diffusers' layout."""
        return self.root / "pipeline"

    @property
    def evaluation(self) -> Path:
        """Reports of ``evaluate``."""
        return self.root / "evaluation"

    @property
    def warm_start(self) -> Path:
        """What became of each weight of the pipeline that training started from."""
        return self.root / "init-from.md"

    def tokens(self, split: str) -> Path:
        """Token shards of a split."""
        return self.root / "tokens" / split

    @classmethod
    def create(cls, root: Path | str, config_yaml: str) -> RunDirectory:
        """Make a new run with its configuration.

        Raises:
            InputError: something is already there, and nothing is overwritten; or the disk is full.
        """
        run = cls(root)
        if not is_unused(run.root):
            resume = command_line(["train", "--resume", str(run.root)])
            go_on = f"go on with it by {resume}, or " if run.config_file.is_file() else ""
            raise InputError(f"{run.root} is already there and not empty: {go_on}choose another --name or --out")
        with writing(run.root):
            run.root.mkdir(parents=True, exist_ok=True)
        write_file(run.config_file, config_yaml)
        return run

    @classmethod
    def open(cls, root: Path | str) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: there is no run at that place.
        """
        run = cls(root)
        if not run.config_file.is_file():
            raise InputError(f"no run at {run.root}: expected a folder with config.yaml, such as runs/digits")
        return run
