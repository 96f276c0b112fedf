"""Configurations: strict, round-tripping, with the precedence that the docs promise."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import yaml

from purrception.cli import main
from purrception.experiment.config import RunConfig, load_config
from purrception.experiment.recipes import RECIPES, get_recipe
from purrception.experiment.run import start_run
from purrception.models import HeadConfig
from purrception.storage import dump_settings, settings_from_dict, settings_to_dict
from purrception.utils.errors import InputError
from purrception.utils.settings import option_names


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_yaml(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name)
    file = tmp_path / "config.yaml"
    file.write_text(dump_settings(recipe))
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
        ({"training": {"steps": 0}}, "training.steps must be at least 1"),
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
        settings_from_dict(RunConfig, values, "my.yaml")


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

    assert leaves(settings_to_dict(get_recipe("digits"))) == set(option_names(RunConfig))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\nseed: 2020-99-99", "is not a configuration in YAML that can be read: month must be in"),
        ("name: x\nseed: 2020-01-01", "is not a configuration that can be read: .*date"),
        ("name: x\nseed: !!int abc", "invalid literal for int"),
        ("name: x\nseed: " + "9" * 5000, "integer string conversion"),
        ("name: &a [*a]", "line 1 repeats another part with an alias"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]", "line 2 repeats"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("name: x\nname: y", "the key 'name' in line 2 is given twice"),
        ("name: x\ntraining: {steps: 2, steps: 3}", "the key 'steps' in line 2 is given twice"),
        ("name: x\n1: y", "a key in line 2 is not text"),
        ("? [a, b]\n: y", "a key in line 1 is not text"),
        ("name: x\n!!python/object/apply:os.system [ls]: 1", "a key in line 2 is not text|could not determine"),
        ("name: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("name: x\ndata: !!set {a, b}", "is not text|set"),
        ("name: \xff", "YAML"),
        ("# " + "x" * 2**18, "has 262146 bytes; a configuration in YAML has at most"),
        ("name: x\ntraining: {learning_rate: .inf}", "training.learning_rate is a finite number; given inf"),
        ("name: x\ntraining: {weight_decay: .nan}", "training.weight_decay is a finite number; given nan"),
        ("name: x\nevaluation: {guidances: [1.0, .inf]}", "evaluation.guidances is a finite number; given inf"),
        (
            "name: x\nevaluation: {classifier: {learning_rate: .nan}}",
            "classifier.learning_rate is a finite number",
        ),
        ("name: x\ntokenizer: {training: {learning_rate: .inf}}", "learning_rate is a finite number; given inf"),
        ("name: x\nobjective: {z_loss: .nan}", "z_loss"),
        ("name: x\nnetwork: {depth: 1000000}", "network.depth is at most 1024; given 1000000"),
        ("name: x\nnetwork: {width: 1000000000}", "network.width is at most 65536; given 1000000000"),
        ("name: x\nhead: {rank: 1000000000}", "head.rank is at most"),
        ("name: x\ndata: {image_size: 1000000000}", "data.image_size is at most"),
        ("name: x\nsampling: {steps: 1000000000}", "sampling.num_inference_steps is at most"),
        ("name: x\ntraining: {steps: 1000000000000000000}", "training.steps is at most"),
        ("name: x\ntraining: {warmup_steps: 99999999999999999999999}", "training.warmup_steps is at most"),
        (
            "name: x\ntokenizer: {model: {codebook_size: 1000000000000}}",
            "tokenizer.model.codebook_size is at most",
        ),
        ("name: x\ntokenizer: {model: {channels: [-8, 8]}}", "multiples of 8"),
    ],
)
def test_yaml_that_no_run_wrote_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message) as caught:
        load_config(file)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "--training.learning-rate inf",
        "--training.weight-decay nan",
        "--sampling.tolerance inf",
        "--evaluation.classifier.learning-rate inf",
        "--network.mlp-ratio nan",
        "--data.test-fraction nan",
    ],
)
def test_numbers_that_are_not_finite_are_refused_on_the_command_line(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *option.split()]) == 2
    error = capsys.readouterr().err
    assert option.split()[1] in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_settings_class_refuses_numbers_that_are_not_finite() -> None:
    """By itself or as a part of a run, whichever float it is."""

    def floats(settings: object, prefix: str = "") -> list[str]:
        found = []
        for item in fields(settings):  # type: ignore[arg-type]
            value = getattr(settings, item.name)
            if is_dataclass(value):
                found += floats(value, f"{prefix}{item.name}.")
            elif isinstance(value, float) or (
                isinstance(value, tuple) and any(isinstance(x, float) for x in value)
            ):
                found.append(prefix + item.name)
        return found

    names = floats(get_recipe("digits"))
    assert len(names) > 25
    for name in names:
        values = settings_to_dict(get_recipe("digits"))
        place = values
        *sections, last = name.split(".")
        for section in sections:
            place = place[section]
        place[last] = [float("inf")] * len(place[last]) if isinstance(place[last], list) else float("inf")
        with pytest.raises(InputError):
            settings_from_dict(RunConfig, values, "my.yaml")
