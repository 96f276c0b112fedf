"""The suite: the objectives compared on several sets of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from purrception.cli import main
from purrception.comparison import suite as suite_module
from purrception.comparison.settings import Protocol
from purrception.comparison.suite import advantages, recipe_for, write_suite
from purrception.data import DataConfig
from purrception.utils.errors import InputError
from tests.conftest import tiny_config
from tests.data.test_sources import fill_folder

DATA = {"digits": DataConfig(), "folder": DataConfig(source="folder", channels=3)}


ROWS = {
    "digits@16": [
        {
            "entry": entry,
            "seed": seed,
            "step": step,
            "frechet": level + 0.1 * seed,
            "bits_per_code": 6.0 + 0.2 * seed,
            "recall": 0.9,
            "recognised": 0.9,
        }
        for entry, level in (("purrception", 2.0), ("cfm", 3.0))
        for seed in (0, 1)
        for step in (10, 20)
    ]
}


def test_the_suite_says_where_an_advantage_holds(tmp_path: Path) -> None:
    protocol = Protocol(("purrception", "cfm"), seeds=2, points=1, num=10, tune=False)
    by_metric = {one.metric: one for one in advantages(ROWS, protocol)}
    assert by_metric["frechet"].holds == "yes"
    assert by_metric["frechet"].ratio == pytest.approx(3.05 / 2.05)
    assert by_metric["bits_per_code"].holds == "undecided"
    swapped = Protocol(("cfm", "purrception"), seeds=2, points=1, num=10, tune=False)
    assert advantages(ROWS, swapped)[0].holds == "no"
    text = write_suite(ROWS, protocol, 20, tmp_path / "suite").read_text()
    assert "| digits@16 | purrception | 2.05 ± 0.071 |" in text


def test_a_set_is_an_embedded_one_at_a_size_or_a_folder(tmp_path: Path) -> None:
    recipe = recipe_for("photos@48", 7)
    assert (recipe.name, recipe.data.image_size, recipe.training.steps) == ("photos-48", 48, 7)
    with pytest.raises(InputError, match="no folder of images"):
        recipe_for(str(tmp_path / "none@32"), 7)


@pytest.mark.slow
def test_a_suite_compares_on_embedded_sets_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path / "pets", count=30)
    monkeypatch.setattr(suite_module, "get_recipe", lambda name: tiny_config(tmp_path, name=name, data=DATA[name]))
    monkeypatch.setattr(suite_module, "fit_to_images", lambda recipe, data: (replace(recipe, data=data), "small"))
    options = ["--sets", "digits@16", "--folders", f"{tmp_path / 'pets'}@16", "--objectives", "purrception,cfm"]
    words = ["diagnose", "--suite", *options, "--seeds", "2", "--steps", "2", "--num", "20", "--out", "suite"]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    found = json.loads((tmp_path / "suite" / "report.json").read_text())["suite"]
    assert {name: len(rows) for name, rows in found["rows"].items()} == {
        "digits@16": 4,
        f"{tmp_path / 'pets'}@16": 4,
    }
    assert len(found["advantages"]) == 4
    assert (tmp_path / "suite" / "suite.png").stat().st_size > 2000
    capsys.readouterr()
    assert main(words) == 0  # nothing is left to train
    assert "training" not in capsys.readouterr().err
