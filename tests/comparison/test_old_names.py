"""Results whose files give sampling settings their earlier names: they are read, and go on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from purrception.comparison.report import write_report
from purrception.comparison.rows import read_rows
from purrception.comparison.run import PROTOCOL_FILE, _open
from purrception.comparison.settings import Protocol
from purrception.evaluation.diff import compare_results
from purrception.evaluation.generation import GeneratedCodes, Request, describe, generate, request_key
from purrception.experiment.recipes import get_recipe
from purrception.experiment.saved_run import load_pipeline
from purrception.flow import SamplingConfig
from purrception.storage import settings_to_dict
from tests.fuzz.test_formats import row

BEFORE = {name: first for first, name in SamplingConfig.RENAMED.items()}


def as_before(settings: SamplingConfig) -> dict[str, object]:
    """The settings as earlier versions wrote them."""
    return {BEFORE.get(name, name): value for name, value in asdict(settings).items()}


SETTINGS = SamplingConfig(num_inference_steps=4, guidance_scale=1.5, timestep_spacing="cosine")


def test_the_first_names_are_these() -> None:
    """Files of a year ago hold them."""
    assert {"steps", "grid", "guidance", "strength"} <= as_before(SETTINGS).keys()
    assert not {"num_inference_steps", "timestep_spacing", "guidance_scale", "eta"} & as_before(SETTINGS).keys()


def test_rows_are_read_under_either_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purrception.comparison.report._draw", lambda *_: None)
    tuned = {"precision": 0.5, "recall": 0.5, "recognised": 0.5, "frechet": 2.0, "nfe": 7, "tried": 9}
    old, new = (
        row("cfm", 10) | {"sampling": sampling, "tuned": {**tuned, "sampling": sampling}}
        for sampling in (as_before(SETTINGS), asdict(SETTINGS))
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps(old) + "\n" + json.dumps(new) + "\n", encoding="utf-8")
    first, second = read_rows(tmp_path / "rows.jsonl")
    assert first == second
    assert first["sampling"]["guidance_scale"] == first["tuned"]["sampling"]["guidance_scale"] == 1.5
    text = write_report(tmp_path, [first], get_recipe("digits"), 1.0, 0.98).read_text(encoding="utf-8")
    assert "euler, NFE 5, guidance 1.5, τ 1.0" in text
    assert "guidance 1.5, τ 1.0, NFE 7" in text


def test_a_comparison_that_was_begun_before_goes_on(tmp_path: Path) -> None:
    recipe, protocol = get_recipe("digits"), Protocol(("cfm",), 1, 1, 10, False)
    values = settings_to_dict(recipe)
    values["sampling"] = {BEFORE.get(name, name): value for name, value in values["sampling"].items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (tmp_path / PROTOCOL_FILE).write_text(json.dumps(asdict(protocol)), encoding="utf-8")
    grown = Protocol(("cfm", "dfm"), 2, 1, 10, False)
    assert _open(recipe, grown, tmp_path).root == tmp_path
    assert json.loads((tmp_path / PROTOCOL_FILE).read_text(encoding="utf-8"))["seeds"] == 2


def test_codes_that_were_generated_before_are_found_again(tiny_run: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(tiny_run)
    request = Request(SETTINGS, seed=3)
    before = {**describe(pipeline, request), "sampling": as_before(SETTINGS)}
    key = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]
    assert request_key(describe(pipeline, request)) == key
    codes = generate(pipeline, request, 5, tmp_path)
    assert codes.folder.name == key
    (file,) = codes.folder.glob("codes-*")
    when = file.stat().st_mtime_ns
    again = generate(pipeline, request, 5, tmp_path)
    assert file.stat().st_mtime_ns == when
    assert isinstance(again, GeneratedCodes)
    assert torch.equal(*(torch.from_numpy(each.part(0)[0]) for each in (codes, again)))  # type: ignore[index]
    other = Request(SamplingConfig(num_inference_steps=5, guidance_scale=1.5), seed=3)
    assert request_key(describe(pipeline, other)) != key


def test_manifests_differ_in_what_was_set_and_not_in_its_name(tmp_path: Path) -> None:
    rows = [{"images": "generated", "frechet": 3.0, "frechet_low": 2.0, "frechet_high": 4.0, "guidance": 1.5}]
    for name, sampling in (
        ("old", as_before(SETTINGS)),
        ("new", asdict(SETTINGS)),
        ("other", asdict(SETTINGS) | {"num_inference_steps": 9}),
    ):
        manifest = {"images": {"sampling": sampling, "seed": 0}, "count": 9}
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"manifest": manifest, "rows": rows}))
    assert "The manifests are equal." in compare_results(tmp_path / "old", tmp_path / "new")
    said = compare_results(tmp_path / "old", tmp_path / "other")
    assert "| images.sampling.num_inference_steps | 4 | 9 |" in said
    assert "images.sampling.steps" not in said
