"""Every reader of configurations, tokens, tokenizers, pipelines and run files, under seeded damage.

What is read is either taken or refused in one line, soon and in little memory; where digests say what a file is,
damage to it is always noticed. ``FUZZ=2000`` makes so many mutations for each reader.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purrception import PurrceptionPipeline
from purrception.comparison.report import write_report
from purrception.comparison.rows import read_rows
from purrception.comparison.settings import Protocol
from purrception.experiment.config import RunConfig, TokenizerRunConfig, load_config
from purrception.experiment.recipes import get_recipe
from purrception.flow import SamplingConfig
from purrception.storage import (
    DIGESTS_FILE,
    check_digests,
    dump_settings,
    load_settings,
    read_json,
    read_json_lines,
    settings_from_dict,
    settings_to_dict,
    updating_digests,
)
from purrception.storage.foreign_weights import read_weights, tensors_in
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.tokens import EncodingConfig, TokenDataset, TokenStore, preparation, write_tokens
from purrception.training.metrics import MetricsLog
from purrception.utils.errors import InputError
from tests.fuzz.mutations import QUICK, SLOW, fuzz
from tests.tokens.test_tokens import Pixels, PixelTokenizer


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "set"
    write_tokens(Pixels(), PixelTokenizer(), folder, "train", config=EncodingConfig(5, 3))
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    VQTokenizer(VQConfig(16, 3, (8, 8)).build(1, 16)).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def pipeline(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline"))


YAML: dict[str, tuple[Callable[[Path], object], str]] = {
    "run": (load_config, dump_settings(get_recipe("photos"))),
    "sampling": (partial(load_settings, SamplingConfig), dump_settings(get_recipe("photos").sampling)),
    "tokenizer": (partial(load_settings, TokenizerRunConfig), dump_settings(TokenizerRunConfig())),
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml(kind: str, tmp_path: Path) -> None:
    read, text = YAML[kind]
    (tmp_path / f"{kind}.yaml").write_text(text)
    assert fuzz(read, tmp_path / f"{kind}.yaml", QUICK) > QUICK / 3


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["auto", "inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=SLOW, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_any_place_of_a_configuration(data: st.DataObject) -> None:
    values = settings_to_dict(get_recipe("digits"))
    place, name = values, data.draw(st.sampled_from(sorted(values)))
    while isinstance(place[name], dict) and data.draw(st.booleans()):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(ANYTHING)
    line = ""
    try:
        settings_from_dict(RunConfig, values, "my.yaml")
    except InputError as error:
        line = str(error)
    assert "\n" not in line


def test_token_manifests(tokens: Path, tmp_path: Path) -> None:
    shutil.copytree(tokens, tmp_path / "set")
    fuzz(lambda path: TokenDataset(path.parent).rows(np.arange(1)), tmp_path / "set" / "manifest.json", QUICK)


@pytest.mark.parametrize("address", ["local", "memory"])
def test_token_manifests_at_an_address_write_nothing_elsewhere(
    tokens: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tokens, tmp_path / "set")
    (tmp_path / "cache").mkdir()
    memory = fsspec.filesystem("memory")

    def read(path: Path) -> None:
        where = f"local://{path.parent}"
        if address == "memory":
            memory.put(f"{path.parent}/", "/fuzz/set/", recursive=True)
            where = "memory://fuzz/set"
        TokenDataset(where).rows(np.arange(1))

    fuzz(read, tmp_path / "set" / "manifest.json", QUICK // 2)
    inside = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert inside <= {"manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "set"}
    assert TokenStore(f"local://{tmp_path / 'set'}").remote


@pytest.mark.parametrize("known", [True, False])
def test_shards(tokens: Path, tmp_path: Path, known: bool) -> None:
    """With the manifest's digest every damage is noticed; with a digest of the damage the parser is reached."""
    folder = Path(shutil.copytree(tokens, tmp_path / "set"))
    shard, manifest = folder / "shard-00000.safetensors", folder / "manifest.json"

    def forge() -> None:
        values = json.loads(manifest.read_text())
        values["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(values))

    forged = (lambda: None) if known else forge
    fuzz(lambda path: TokenDataset(path.parent).rows(np.arange(10)), shard, QUICK, noticed=known, after=forged)


@pytest.mark.parametrize("name", ["plan.json", "progress/00001.json"])
def test_a_preparation_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder, finish = tmp_path / "set", preparation._finish

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def prepare(folder: Path) -> None:
        write_tokens(Pixels(), PixelTokenizer(), folder, "train", config=EncodingConfig(4))

    monkeypatch.setattr(preparation, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    monkeypatch.setattr(preparation, "_finish", finish)

    def read(path: Path) -> None:
        there = tmp_path / "copy"
        shutil.rmtree(there, ignore_errors=True)
        prepare(Path(shutil.copytree(folder, there)))

    fuzz(read, folder / name, QUICK // 2)


PARTS = [
    "model_index.json",
    "transformer/config.json",
    "vqvae/config.json",
    "scheduler/scheduler_config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vqvae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize("name", [*PARTS, DIGESTS_FILE])
def test_a_pipeline_with_digests_notices_all_damage(pipeline: Path, name: str) -> None:
    """Damage to the index itself may be of no consequence, such as a name of no file."""
    sure = name != DIGESTS_FILE
    fuzz(lambda _: PurrceptionPipeline.from_pretrained(pipeline), pipeline / name, SLOW // 2, noticed=sure)


@pytest.mark.parametrize("name", PARTS)
def test_a_pipeline_without_digests_is_taken_or_refused(pipeline: Path, name: str) -> None:
    (pipeline / DIGESTS_FILE).unlink()
    count = SLOW // 2 if name.startswith("vqvae") else SLOW  # whose reader test_tokenizers tries as well
    fuzz(lambda _: PurrceptionPipeline.from_pretrained(pipeline), pipeline / name, count)


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("known", [True, False])
def test_tokenizers(tokenizer: Path, name: str, known: bool) -> None:
    if not known:
        (tokenizer / DIGESTS_FILE).unlink()
    fuzz(lambda _: VQTokenizer.load(tokenizer), tokenizer / name, SLOW // (2 if known else 1), noticed=known)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "old.pt"])
def test_weights_of_others(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.randn(7, 5), "b": torch.zeros(3)}
    if name == "a.safetensors":
        save_file(tensors, tmp_path / name)
    else:
        more = {"state_dict": tensors, "step": 3}
        torch.save(more, tmp_path / name, _use_new_zipfile_serialization=name == "a.pt")

    def read(path: Path) -> None:
        for tensor in tensors_in(read_weights(path), ("state_dict",), path).values():
            tensor.float().sum()

    fuzz(read, tmp_path / name, QUICK)


def test_origins_and_metrics_in_a_card(tiny_run: Path, tmp_path: Path) -> None:
    from purrception.experiment.export import model_card
    from purrception.experiment.saved_run import load_pipeline
    from purrception.training import RunDirectory

    run = RunDirectory(shutil.copytree(tiny_run, tmp_path / "run"))
    pipeline, config = load_pipeline(run.root), load_config(run.config_file)
    origin = run.tokenizer / "origin.json"
    origin.write_text(json.dumps({"source": "vq.ckpt", "arch": "vq-f8", "sha256": "0" * 64}))
    for file in (origin, run.metrics_file):
        fuzz(lambda _: model_card(run, config, pipeline), file, QUICK // 2)


def test_figures_of_a_run_that_goes_on(tiny_run: Path, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        copy = Path(shutil.copyfile(path, tmp_path / "copy.jsonl"))
        for line in read_json_lines(copy):
            assert isinstance(line["step"], int)
        MetricsLog(copy, 4).write(5, {"loss": 1.0})
        assert read_json_lines(copy)[-1]["step"] == 5

    fuzz(read, Path(shutil.copyfile(tiny_run / "metrics.jsonl", tmp_path / "metrics.jsonl")), QUICK)


def row(entry: str, step: int) -> dict[str, object]:
    figures = ("frechet", "bits_per_code", "precision", "recall", "recognised", "cross_entropy", "mean_error")
    numbers = dict.fromkeys(figures, 3.0 + 100 / step)
    return {
        "entry": entry,
        "seed": 0,
        "step": step,
        "seconds": 2.0 * step,
        "flops": 1e9 * step,
        "parameters": 7,
        "nfe": 5,
        "sampling": {"solver": "euler", "guidance": 1.0, "temperature": 0.9},
        **numbers,
    }


def test_rows_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purrception.comparison.report._draw", lambda *_: None)
    rows = [row(entry, step) for entry in ("purrception", "cfm") for step in (10, 20, 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))

    def read(path: Path) -> None:
        found = read_rows(path, ("purrception", "cfm"))
        if len(found) == len(rows):  # otherwise the training goes on first
            write_report(tmp_path, found, get_recipe("digits"), 1.0, 0.98)

    fuzz(read, tmp_path / "rows.jsonl", QUICK)


def test_protocols(tmp_path: Path) -> None:
    file = tmp_path / "protocol.json"
    file.write_text(json.dumps({"entries": ["purrception"], "seeds": 2, "points": 3, "num": 50, "tune": False}))
    fuzz(lambda path: read_json(path, Protocol, "the protocol of a comparison"), file, QUICK)


def test_indexes_of_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / DIGESTS_FILE).write_text(f"{hashlib.sha256(b'a').hexdigest()}  a\n")

    def read(path: Path) -> None:
        check_digests(path.parent)
        with updating_digests(path.parent, ["a"]):
            pass

    fuzz(read, tmp_path / DIGESTS_FILE, QUICK)
