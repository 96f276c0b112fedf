"""The layout of a run, and starting one where a first attempt was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from purrception.comparison.run import PROTOCOL_FILE, _open
from purrception.comparison.settings import Protocol
from purrception.storage import write_file
from purrception.training import RunDirectory, is_pipeline
from purrception.utils.errors import InputError
from tests.conftest import tiny_config
from tests.storage.test_storage import full


def test_the_layout_knows_every_folder_of_a_run(tiny_run: Path) -> None:
    run = RunDirectory(tiny_run)
    known = {path.name for path in vars(run).values() if path.parent == run.root}
    assert {path.name for path in tiny_run.iterdir() if path.is_dir() and path.name[0] != "."} <= known
    assert run.has_tokenizer
    assert not RunDirectory(tiny_run / "pipeline").has_tokenizer
    assert is_pipeline(run.pipeline)
    assert not is_pipeline(run.root)


def test_a_run_whose_configuration_was_only_begun_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            RunDirectory.create(root, "name: a")
    assert not (root / "config.yaml").exists()
    (root / ".config.yaml.123.partial").touch()  # as a kill leaves it
    assert RunDirectory.create(root, "name: a").config_file.read_text() == "name: a"
    with pytest.raises(InputError, match=r"go on with it by purrception train --resume .*run, or choose another"):
        RunDirectory.create(root, "name: a")


def test_a_comparison_killed_before_its_protocol_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, protocol = tiny_config(tmp_path), Protocol(("cfm",), 1, 1, 10, False)

    def killed(path: Path, content: str) -> None:
        if path.name == PROTOCOL_FILE:
            raise KeyboardInterrupt
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("purrception.comparison.run.write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            _open(recipe, protocol, tmp_path / "cmp")
    assert (tmp_path / "cmp/config.yaml").is_file()
    other = tiny_config(tmp_path, seed=1)
    with pytest.raises(InputError, match="already there and not empty"):
        _open(other, protocol, tmp_path / "cmp")
    assert _open(recipe, protocol, tmp_path / "cmp").root == tmp_path / "cmp"
    assert (tmp_path / "cmp" / PROTOCOL_FILE).is_file()
