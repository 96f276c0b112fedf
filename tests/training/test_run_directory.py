"""Beginning a run, and beginning again where the first attempt was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from purrception.comparison.run import PROTOCOL_FILE, Protocol, _open
from purrception.storage import write_file
from purrception.training import RunDirectory
from purrception.utils.errors import InputError
from tests.conftest import tiny_config
from tests.storage.test_storage import full


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
