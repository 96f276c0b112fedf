"""Checkpoints of both trainings under seeded damage: whatever is altered is noticed, nothing loads in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from purrception.experiment.saved_run import load_pipeline
from purrception.storage import DIGESTS_FILE
from purrception.tokenizers.checkpoint import Progress, latest_checkpoint, save_checkpoint
from purrception.training import CheckpointStore
from purrception.utils.errors import InputError
from tests.fuzz.mutations import SLOW, fuzz

PART = "shard-00001-model-00001-of-00001.safetensors"
FILES = ["state.json", f"network/{PART}", f"ema/{PART}"]


@pytest.fixture
def checkpoint(tiny_run: Path, tmp_path: Path) -> Path:
    """The only one of a run."""
    store = tmp_path / "checkpoints"
    return Path(shutil.copytree(tiny_run / "checkpoints/step-00000008", store / "step-00000008"))


@pytest.mark.parametrize("name", [*FILES, f"optimizer/{PART}", DIGESTS_FILE])
def test_every_damage_to_a_checkpoint_is_noticed(checkpoint: Path, name: str) -> None:
    """Damage to the index itself may be of no consequence, such as a line that is lost."""

    def read(_: Path) -> object:
        return CheckpointStore(checkpoint.parent).latest_whole()

    fuzz(read, checkpoint / name, SLOW, noticed=name != DIGESTS_FILE)


@pytest.mark.parametrize("name", FILES)
def test_checkpoints_of_earlier_versions_are_taken_or_refused(checkpoint: Path, tiny_run: Path, name: str) -> None:
    (checkpoint / DIGESTS_FILE).unlink()
    network = load_pipeline(tiny_run).transformer

    def read(_: Path) -> None:
        latest = CheckpointStore(checkpoint.parent).latest_whole()
        assert latest is not None
        latest.load_network(network)
        latest.load_network(network, ema=True)

    fuzz(read, checkpoint / name, SLOW)


def test_every_damage_to_a_tokenizer_s_checkpoint_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Progress(3, "a setting", {"last_epoch": 3}, 0.1), {"vq": {"a": torch.randn(30, 7)}})
    (file,) = tmp_path.iterdir()

    def read(path: Path) -> None:
        aside = tmp_path / f"damaged-{path.name}"
        try:
            found = latest_checkpoint(tmp_path)
            assert found is not None
            meant = found.progress == good.progress and torch.equal(found.tensors["vq/a"], good.tensors["vq/a"])
            if not meant:
                raise AssertionError("other content is taken in silence")
        finally:
            if aside.exists():
                aside.rename(path)

    good = latest_checkpoint(tmp_path)
    assert good is not None
    fuzz(read, file, SLOW)


def test_a_checkpoint_that_is_gone_is_missed(checkpoint: Path) -> None:
    (checkpoint / "ema" / PART).unlink()
    with pytest.raises(InputError, match="is missing"):
        CheckpointStore(checkpoint.parent).all()[0].check()
