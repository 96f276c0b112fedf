"""Token sets too large for memory, far away, or read by several processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
import yaml

from purrception.cli import main
from purrception.storage import read_json_lines
from purrception.tokens import (
    EncodingConfig,
    ShuffledOrder,
    TokenDataset,
    TokenStore,
    rank_share,
    write_tokens,
)
from purrception.tokens import dataset as dataset_module
from purrception.tokens import order as order_module
from purrception.utils.errors import InputError
from tests.conftest import run_cli
from tests.forked import python
from tests.tokens.test_tokens import Pixels, PixelTokenizer

ROOT = Path(__file__).parents[2]


class ManyPixels(Pixels):
    """Forty images."""

    listing = "forty"

    def __init__(self) -> None:
        self.arrays = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 1), dtype=np.uint8)


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    """Forty shards of one image."""
    write_tokens(ManyPixels(), PixelTokenizer(), tmp_path / "set", "train", config=EncodingConfig(1))
    return tmp_path / "set"


def test_many_shards_are_opened_when_needed_and_few_at_a_time(
    forty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "OPEN_AT_MOST", 5)
    dataset = TokenDataset(forty)
    assert not dataset._arrays.cache_info().currsize
    indices, _ = dataset.rows(np.arange(40)[::-1])
    assert np.array_equal(indices, ManyPixels().arrays[::-1, ..., 0])
    assert dataset._arrays.cache_info().currsize == 5


def test_a_shard_is_verified_once_at_its_first_use(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    digest = dataset_module.sha256_of
    monkeypatch.setattr(dataset_module, "sha256_of", lambda path: counted.append(path.name) or digest(path))
    monkeypatch.setattr(dataset_module, "OPEN_AT_MOST", 2)
    dataset = TokenDataset(forty)
    assert not counted
    for _ in range(3):
        dataset.rows(np.arange(10))
    assert sorted(counted) == [f"shard-{number:05d}.safetensors" for number in range(10)]
    damaged = forty / "shard-00030.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"shard-00030\.safetensors is truncated or altered"):
        dataset.rows(np.array([3, 30]))


def upload(folder: Path, address: str) -> None:
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/", f"/{address}/", recursive=True)


def test_shards_at_an_address_are_cached_and_a_bad_copy_replaced(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(forty, "streaming/set")
    dataset = TokenDataset("memory://streaming/set")
    cached = tmp_path / "cache"
    assert [path.name for path in cached.rglob("*.*")] == ["manifest.json"]  # shards come when they are needed
    assert np.array_equal(dataset.rows(np.array([7]))[0], ManyPixels().arrays[[7], ..., 0])
    (shard,) = cached.rglob("shard-*")
    shard.write_bytes(b"half a shar")
    assert np.array_equal(
        TokenDataset("memory://streaming/set").rows(np.array([7]))[0], ManyPixels().arrays[[7], ..., 0]
    )
    fsspec.filesystem("memory").pipe("/streaming/set/shard-00008.safetensors", b"damaged over there")
    with pytest.raises(InputError, match=r"shard-00008\.safetensors is truncated or altered"):
        dataset.rows(np.array([8]))
    fsspec.filesystem("memory").rm("/streaming/set/shard-00009.safetensors")
    with pytest.raises(InputError, match=r"memory://streaming/set/shard-00009\.safetensors is missing"):
        dataset.rows(np.array([9]))


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("outside", ["absolute", "above"])
def test_a_set_at_an_address_writes_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, outside: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    victim = tmp_path / "cache" / "purrception" / "victim.txt"
    victim.parent.mkdir(parents=True)
    victim.write_text("mine")
    (tmp_path / "set").mkdir()
    write_tokens(ManyPixels(), PixelTokenizer(), tmp_path / "set", "train", config=EncodingConfig(40))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    manifest["shards"][0]["file"] = str(victim) if outside == "absolute" else "../victim.txt"
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "victim.txt").write_text("theirs")
    upload(tmp_path / "set", "streaming/evil")
    fsspec.filesystem("memory").pipe("/streaming/victim.txt", b"theirs")
    fsspec.filesystem("memory").pipe(f"/streaming/evil{victim}", b"theirs")
    address = f"local://{tmp_path / 'set'}" if kind == "local" else "memory://streaming/evil"
    with pytest.raises(InputError, match="accepted are plain file names"):
        TokenDataset(address)
    assert victim.read_text() == "mine"
    with pytest.raises(InputError, match="accepted are plain file names"):
        TokenStore(address).fetch(manifest["shards"][0]["file"])


def test_a_shard_that_arrives_damaged_replaces_no_good_one_and_leaves_nothing(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address, name = f"local://{forty}", "shard-00002.safetensors"
    TokenDataset(address).rows(np.array([2]))
    (kept,) = (tmp_path / "cache").rglob(name)
    good = kept.read_bytes()
    (forty / name).write_bytes(b"damaged over there")
    with pytest.raises(InputError, match=r"shard-00002\.safetensors is truncated or altered"):
        TokenStore(address).fetch(name, sha256=hashlib.sha256(good).hexdigest())
    assert kept.read_bytes() == good
    (forty / name).unlink()
    (forty / name).mkdir()
    with pytest.raises(InputError, match="is a folder"):
        TokenStore(address).fetch(name)
    assert [path.name for path in kept.parent.glob("*shard*")] + list(kept.parent.glob(".*")) == [name]


def test_addresses_that_lead_nowhere_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no token shards in memory://streaming/nothing"):
        TokenDataset("memory://streaming/nothing")
    with pytest.raises(InputError, match="cannot read nosuchprotocol://"):
        TokenDataset("nosuchprotocol://streaming/set")


def test_a_run_trains_on_prepared_shards_from_an_address_as_on_its_own(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(tiny_run / "tokens", "streaming/tiny")
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    config["data"] |= {"source": "folder", "root": "gone", "tokens": "memory://streaming/tiny"}
    config["runs"] = str(tmp_path / "runs")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert "--tokenizer.path" in capsys.readouterr().err
    arguments = ["train", str(tmp_path / "c.yaml"), "--tokenizer.path", str(tiny_run / "tokenizer")]
    assert main(arguments) == 0
    losses = [
        [line["loss"] for line in read_json_lines(run / "metrics.jsonl") if "loss" in line]
        for run in (tmp_path / "runs/tiny", tiny_run)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert main(["sample", str(tmp_path / "runs/tiny"), "--num", "2", "--steps", "2"]) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 65, 1442])
def test_every_epoch_is_a_permutation_of_any_size(size: int) -> None:
    order = ShuffledOrder(size, seed=3)
    epochs = order.rows(0, 4 * size).reshape(4, size)
    assert all(np.array_equal(np.sort(epoch), np.arange(size)) for epoch in epochs)


def test_the_order_is_shuffled_globally() -> None:
    """Neighbours in the order are as far apart as chance has it, and every part visits every shard."""
    size = 100_000
    rows = ShuffledOrder(size, seed=0).rows(0, size)
    correlation = np.corrcoef(np.arange(size), rows)[0, 1]
    assert abs(correlation) < 4 / size**0.5
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 4 / size**0.5
    assert np.abs(np.diff(rows)).mean() == pytest.approx(size / 3, rel=0.02)
    counts = np.histogram(rows[:10_000], bins=100)[0]
    assert 50 < ((counts - 100) ** 2 / 100).sum() < 150  # χ² of 99 degrees of freedom
    other = ShuffledOrder(size, seed=1).rows(0, size)
    assert (other == rows).sum() < 12


def test_the_order_takes_no_memory() -> None:
    tracemalloc.start()
    rows = ShuffledOrder(10**12, seed=0).rows(10**11, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert len(np.unique(rows)) == 1000
    assert rows.max() < 10**12


def test_order_is_not_disturbed_by_another_epoch_asked_for_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the loop names the rows of a skipped step while the thread that reads ahead is in the next epoch."""
    order = ShuffledOrder(600, seed=3)
    undisturbed, mixed, inside = ShuffledOrder(600, seed=3).rows(0, 600), order_module._mixed, False

    def interrupted(values: np.ndarray) -> np.ndarray:
        nonlocal inside
        if not inside:
            inside = True
            order.rows(600, 10)
            inside = False
        return mixed(values)

    monkeypatch.setattr(order_module, "_mixed", interrupted)
    assert np.array_equal(order.rows(0, 600), undisturbed)


@pytest.mark.parametrize("world_sizes", [(1, 2), (4, 1), (2, 8)])
def test_the_cursor_holds_at_another_world_size(world_sizes: tuple[int, int]) -> None:
    """What all processes read, step by step, is the same however many they are, and from wherever they go on."""
    order, batch = ShuffledOrder(1000, seed=5), 8

    def read(cursor: int, steps: int, world: int) -> tuple[list[int], int]:
        rows: list[int] = []
        for _ in range(steps):
            for rank in range(world):
                rows += order.rows(*rank_share(cursor, batch, rank, world)).tolist()
            cursor += batch
        return rows, cursor

    first, cursor = read(0, 70, world_sizes[0])
    second, _ = read(cursor, 70, world_sizes[1])
    assert first + second == order.rows(0, 2 * 70 * batch).tolist()
    with pytest.raises(InputError, match="must divide the batch"):
        rank_share(0, 8, 0, 3)


@pytest.mark.parametrize(("grid", "classes"), [((32, 32), 1000), ((16, 16), 10), ((8, 8), 0)])
def test_a_code_takes_at_most_2_1_bytes_with_labels(tmp_path: Path, grid: tuple[int, int], classes: int) -> None:
    class Squares(Pixels):
        class_names = tuple(map(str, range(classes)))
        listing = "squares"

        def __init__(self) -> None:
            self.arrays = np.random.default_rng(0).integers(0, 256, (256, *grid, 1), dtype=np.uint8)

    write_tokens(Squares(), PixelTokenizer(65536), tmp_path, "train")
    used = sum(path.stat().st_size for path in tmp_path.glob("shard-*"))
    assert used / (256 * grid[0] * grid[1]) <= 2.1


@pytest.mark.slow
def test_the_benchmark_runs_and_the_loader_is_fast_enough() -> None:
    command = [
        python(),
        "benchmarks/streaming.py",
        "--batches",
        "10",
        "--shards",
        "1000",
        "--read",
        "1",
        "2",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    speed = lines[2].split("with_noise_and_times ")[1].split(",")[0]
    assert float(speed) > 1


def test_prepared_tokens_of_another_tokenizer_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    from purrception.tokenizers import VQTokenizer

    other = VQTokenizer.load(tiny_run / "tokenizer")
    other.codebook.mul_(2)
    other.save(tmp_path / "other")
    options = ["--data.tokens", tiny_run / "tokens", "--tokenizer.path", tmp_path / "other"]
    done = run_cli("train", tiny_run / "config.yaml", *options, "--name", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "made with another tokenizer: give that one" in done.stderr
