"""Configurations: strict, round-tripping, with the precedence that the docs promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from purrception.config import RunConfig, config_from_dict, config_to_dict, dump_config, load_config
from purrception.errors import InputError
from purrception.experiment import start_run
from purrception.models import HeadConfig
from purrception.options import option_names
from purrception.recipes import RECIPES, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_yaml(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(recipe))
    assert load_config(file) == recipe


def test_digits_are_never_mirrored() -> None:
    assert get_recipe("digits").data.flips is False


def test_photos_have_colour_and_a_codebook_worth_learning() -> None:
    photos = get_recipe("photos")
    assert (photos.data.channels, photos.data.image_size) == (3, 32)
    assert photos.tokenizer.model.codebook_size >= 1024
    assert photos.data.image_size // photos.tokenizer.model.downsampling == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stpes": 3}}, "'training.stpes': did you mean 'training.steps'"),
        ({"trainng": {}}, "trainng"),
        ({"training": {"steps": "many"}}, "training.steps"),
        ({"training": {"steps": 1.5}}, "training.steps"),
        ({"training": {"steps": 0}}, "training.steps is at least 1"),
        ({"network": {"width": 10, "heads": 3}}, "multiple of network.heads"),
        ({"head": {"kind": "liner"}}, "did you mean 'linear'"),
        ({"head": {"evidence": "perhaps"}}, "head.evidence"),
        ({"name": None}, "name"),
        ({"training": {"steps": True}}, "training.steps"),
        ({"training": {"betas": [1.0, 0.9]}}, "betas"),
    ],
)
def test_mistakes_in_a_file_are_named(change: dict[str, object], message: str) -> None:
    values = {"name": "x"} | change
    with pytest.raises(InputError, match=message):
        config_from_dict(values, "my.yaml")


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    for content in ("a: [", "just text", "- list"):
        file.write_text(content)
        with pytest.raises(InputError, match=r"bad\.yaml"):
            load_config(file)


def test_partial_files_take_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "training": {"steps": 7}}))
    config = load_config(file)
    assert config.training.steps == 7
    assert config.training.betas == (0.9, 0.999)


def test_a_head_without_a_posterior_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = replace(get_recipe("digits"), runs=str(tmp_path / "runs"), head=HeadConfig("regression"))
    with pytest.raises(InputError, match="accepted linear, factored, geometric"):
        start_run(recipe)
    assert not (tmp_path / "runs").exists()


def test_option_names_cover_every_leaf() -> None:
    def leaves(values: dict[str, object], prefix: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
        return found

    assert leaves(config_to_dict(get_recipe("digits"))) == set(option_names(RunConfig))
