"""What a run and a comparison keep, damaged or from an earlier version."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from purrception.cli import main
from purrception.comparison.rows import read_rows
from purrception.comparison.run import Seconds, compare
from purrception.comparison.settings import Protocol
from purrception.experiment.config import RunConfig, load_config
from purrception.experiment.plan import plan
from purrception.experiment.saved_run import load_pipeline, saved_config
from purrception.storage import read_json, read_json_lines
from purrception.tokenizers.perceptual import find_weights
from purrception.training import RunDirectory
from purrception.training.metrics import MetricsLog
from purrception.utils.errors import InputError
from tests.fuzz.test_formats import row


@pytest.mark.parametrize(
    "line", ["{}", "[]", "3", "null", '"step"', '{"step": NaN}', '{"step": "4"}', '{"step": true}', '{"st', "\xff"]
)
def test_a_line_of_figures_that_is_none_is_left_out_and_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2, "loss": 0.5}}\n', encoding="latin-1")
    assert read_json_lines(file) == [{"step": 1}, {"step": 2, "loss": 0.5}]
    assert "1 of the lines of" in capsys.readouterr().err
    MetricsLog(file, 1).write(2, {"loss": 0.25})
    assert read_json_lines(file) == [{"step": 1}, {"step": 2, "loss": 0.25}]


@pytest.mark.parametrize(
    "change",
    [{"seed": "0"}, {"entry": 3}, {"frechet": None}, {"seconds": 0}, {"flops": float("nan")}, {"sampling": {}}],
)
def test_a_row_that_lacks_a_figure_says_which_to_remove(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row("cfm", 10)) + "\n" + json.dumps(row("cfm", 20) | change) + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl is not a file of rows .* remove that line .*step 20\)"):
        read_rows(file)
    file.write_text(json.dumps(row("cfm", 10)) + "\n")
    assert len(read_rows(file, ["cfm"])) == 1
    with pytest.raises(InputError, match="a row of another comparison"):
        read_rows(file, ["dfm"])


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"entries": "cfm", "seeds": 1, "points": 1, "num": 50}'])
def test_a_damaged_protocol_says_what_to_do(tmp_path: Path, content: str, digits_recipe: RunConfig) -> None:
    (tmp_path / "protocol.json").write_text(content)
    with pytest.raises(InputError, match=r"protocol\.json is not the protocol of a comparison .*; remove it"):
        compare(digits_recipe, Protocol(("purrception",), 1, 1, 50, False), tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "-1", "NaN", "1e999", '"3"'])
def test_damaged_seconds_of_a_comparison_say_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "seconds.json").write_text(content)
    with pytest.raises(InputError, match=r"seconds\.json is not a number of seconds .*; remove it"):
        read_json(tmp_path / "seconds.json", Seconds, "a number of seconds", "remove it")


@pytest.mark.parametrize("variant", ["a/b", "../b", "a b", ".", "a\0", "BF16", "x" * 40, "ü"])
def test_a_variant_is_a_word(tiny_run: Path, tmp_path: Path, variant: str) -> None:
    pipeline = load_pipeline(tiny_run)
    with pytest.raises(InputError, match="a variant is a word such as bf16"):
        pipeline.save_pretrained(tmp_path / "out", variant=variant)
    assert not (tmp_path / "out").exists()


def test_a_variant_is_given_by_its_name(tiny_run: Path, tmp_path: Path) -> None:
    """Where diffusers has another argument."""
    with pytest.raises(InputError, match="given 'bf16' as safe_serialization"):
        load_pipeline(tiny_run).save_pretrained(tmp_path / "out", "bf16")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_export_refuses_such_a_variant_in_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "out"), "--variant", "a/b"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", ".a", "a" * 300])
def test_a_run_s_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(InputError, match="a run's name must be a plain folder name"):
        RunConfig(name)


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_a_plan_of_an_mlp_of_nothing_is_refused(digits_recipe: RunConfig, ratio: float) -> None:
    with pytest.raises(InputError, match="mlp_ratio"):
        plan(replace(digits_recipe, network=replace(digits_recipe.network, mlp_ratio=ratio)))


def test_a_plan_with_a_tokenizer_without_resolutions_is_one_line(
    tiny_run: Path, tmp_path: Path, digits_recipe: RunConfig
) -> None:
    """Its downsampling was 2⁻¹, rounded to 0, and images were divided by it."""
    folder = Path(shutil.copytree(tiny_run / "tokenizer", tmp_path / "tokenizer"))
    (folder / "SHA256SUMS").unlink()
    values = json.loads((folder / "config.json").read_text())
    values |= {"block_out_channels": [], "down_block_types": [], "up_block_types": []}
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer = replace(digits_recipe.tokenizer, path=str(folder))
    with pytest.raises(InputError, match="block_out_channels"):
        plan(replace(digits_recipe, tokenizer=tokenizer))


def test_a_run_whose_tokenizer_was_named_without_hub_goes_on_with_its_copy(tiny_run: Path, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(tiny_run, tmp_path / "tiny"))
    values = yaml.safe_load(run.config_file.read_text())
    values["tokenizer"] |= {"path": "owner/name", "arch": ""}
    run.config_file.write_text(yaml.safe_dump(values))
    assert load_config(run.config_file).tokenizer.path == "owner/name"
    assert saved_config(run).tokenizer.path == str(run.tokenizer)
    assert main(["train", "--resume", str(run.root), "--training.steps", "9"]) == 0
    assert max(line["step"] for line in read_json_lines(run.metrics_file)) == 9


def test_weights_of_the_hub_are_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *given: "/".join(given))
    with pytest.raises(InputError, match="or hub:owner/name:file"):
        find_weights("owner/name:vgg.pth")
    assert find_weights("hub:owner/name:vgg.pth") == Path("owner/name/vgg.pth")
