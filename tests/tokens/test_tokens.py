"""Token shards: written, mapped, verified, shuffled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor

from purrception.data import Skipped, Views
from purrception.tokens import (
    EncodingConfig,
    Manifest,
    ShuffledOrder,
    Standardisation,
    TokenDataset,
    preparation,
    write_tokens,
)
from purrception.tokens.shards import map_shard, read_captions, write_shard
from purrception.utils.errors import InputError


class PixelTokenizer:
    """Codes are the pixels' brightness in K levels: easy to predict."""

    def __init__(self, size: int = 256) -> None:
        self.codebook = torch.stack([torch.arange(size) * 1.0, torch.arange(size) * -0.5 + 3], dim=1)
        self.fingerprint = f"pixels-{size}"

    def encode(self, images: Tensor) -> Tensor:
        return ((images[:, 0] + 1) * 127.5).round().long()

    def decode(self, indices: Tensor) -> Tensor:
        return indices[:, None] / 127.5 - 1


class Pixels:
    """Ten images of noise with three classes."""

    class_names: tuple[str, ...] = ("a", "b", "c")
    listing = "ten"

    def __init__(self) -> None:
        self.arrays = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 1), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.arrays[index], index % 3

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        raise NotImplementedError


def test_shards_give_back_what_was_encoded_across_files(tmp_path: Path) -> None:
    manifest = write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train", config=EncodingConfig(4, 3))
    assert [shard.count for shard in manifest.shards] == [4, 4, 2]
    dataset = TokenDataset(tmp_path)
    assert dataset.manifest == manifest == Manifest.read(tmp_path)
    rows = np.array([9, 0, 5, 6, 5])
    indices, labels = dataset.rows(rows)
    assert np.array_equal(indices, Pixels().arrays[rows, ..., 0])
    assert labels.tolist() == [0, 0, 2, 0, 2]


def test_flips_follow_their_image(tmp_path: Path) -> None:
    write_tokens(
        Pixels(), PixelTokenizer(), tmp_path, "train", views=Views(flips=True), config=EncodingConfig(batch_size=4)
    )
    dataset = TokenDataset(tmp_path)
    assert len(dataset) == 20
    indices, labels = dataset.rows(np.arange(20))
    assert np.array_equal(indices[1::2], indices[::2, :, ::-1])
    assert np.array_equal(labels[1::2], labels[::2])


def test_standardised_latents_have_zero_mean_and_unit_variance(tmp_path: Path) -> None:
    tokenizer = PixelTokenizer()
    manifest = write_tokens(Pixels(), tokenizer, tmp_path, "train")
    indices, _ = TokenDataset(tmp_path).rows(np.arange(10))
    latents = manifest.standardisation.apply(tokenizer.codebook)[torch.from_numpy(indices)].double()
    torch.testing.assert_close(latents.mean((0, 1, 2)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    assert latents.square().mean().item() == pytest.approx(1, rel=1e-5)
    # One deviation for all channels: the first stays twice as wide as the second.
    assert (latents[..., 0].std() / latents[..., 1].std()).item() == pytest.approx(2, rel=1e-5)


def test_a_collapsed_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="collapsed"):
        Standardisation.of(torch.randn(4, 2), np.array([0, 9, 0, 0]))


def test_codes_take_two_bytes_and_the_header_is_small(tmp_path: Path) -> None:
    manifest = write_tokens(Pixels(), PixelTokenizer(65536), tmp_path, "train")
    assert (tmp_path / manifest.shards[0].file).stat().st_size < 10 * (6 * 2 + 4) + 512
    write_tokens(Pixels(), PixelTokenizer(65537), tmp_path / "wide", "train")
    assert np.array_equal(TokenDataset(tmp_path / "wide").rows(np.arange(10))[0], Pixels().arrays[..., 0])


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train")
    shard = tmp_path / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[-1] ^= 1
        shard.write_bytes(content[:-8] if damage == "truncated" else content)
    with pytest.raises(InputError, match=r"shard-00000\.safetensors is (truncated or altered|missing)"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("labels", 3), ("labels", -1), ("indices", 256)])
def test_a_label_or_code_out_of_range_is_refused(tmp_path: Path, name: str, value: int) -> None:
    import hashlib

    write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train")
    arrays = {"indices": np.zeros((10, 2, 3), np.uint16), "labels": np.zeros(10, np.int32)}
    arrays[name].flat[-1] = value
    shard = tmp_path / "shard-00000.safetensors"
    save_file(arrays, shard)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"holds {name} from .* accepted are 0 to"):
        TokenDataset(tmp_path)


def test_a_missing_or_foreign_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        TokenDataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"codebook_size": 3}')
    with pytest.raises(InputError, match="is not a token manifest"):
        TokenDataset(tmp_path)


def forge(folder: Path, **changes: object) -> None:
    """Change what a manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 10**12}, "codebook_size lies in 1 to"),
        ({"codebook_size": -1}, "codebook_size lies in 1 to"),
        ({"codebook_dim": 3}, "as many means; given 3 and 2"),
        ({"grid": [2, 10**9]}, "a side of the grid lies in 1 to"),
        ({"grid": [2, -3]}, "a side of the grid lies in 1 to|sides of the grid are at least 1"),
        ({"grid": [2, 3, 4]}, "grid"),
        ({"shards": []}, "the number of shards lies in 1 to"),
        ({"shards": [{"file": "a", "count": -1, "sha256": "0" * 64}]}, "at least one row"),
        ({"shards": [{"file": "a", "count": 2**62, "sha256": "0" * 64}]}, "at least one row"),
        ({"shards": [{"file": "a", "count": 1, "sha256": "x"}]}, "a SHA-256 in hexadecimal"),
        ({"shards": [{"file": "a", "count": 1, "sha256": "0" * 64}] * 2}, "named twice"),
        ({"class_names": ["a"] * 1_000_000}, "class names at most"),
        ({"standardisation": {"mean": [0.0, 0.0], "std": 0.0}}, "positive deviation"),
        ({"standardisation": {"mean": [0.0, float("nan")], "std": 1.0}}, "finite means"),
        ({"views": "many"}, "views"),
    ],
)
def test_a_manifest_that_cannot_be_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train")
    forge(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        TokenDataset(tmp_path)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../victim.txt", "/etc/passwd", "a/b", "..", ""])
def test_a_shard_s_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    write_tokens(Pixels(), PixelTokenizer(), tmp_path / "set", "train")
    forge(tmp_path / "set", shards=[{"file": name, "count": 10, "sha256": "0" * 64}])
    with pytest.raises(InputError, match="plain file names"):
        TokenDataset(tmp_path / "set")


def craft(folder: Path, entries: dict[str, tuple[str, list[int], list[int]]], data: int) -> None:
    """A shard with any header, and a manifest with its digest."""
    import hashlib

    names = ("dtype", "shape", "data_offsets")
    header = json.dumps({name: dict(zip(names, entry, strict=True)) for name, entry in entries.items()}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(data)
    (folder / "shard-00000.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    forge(folder, shards=[{"file": "shard-00000.safetensors", "count": 10, "sha256": digest}])


CODES, LABELS = ("U16", [10, 2, 3], [0, 120]), ("I32", [10], [120, 160])


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({"indices": CODES}, 160, "labels"),
        ({"indices": CODES, "labels": ("I32", [9], [120, 156])}, 160, r"labels of shape \(9,\)"),
        ({"indices": ("U16", [10, 3, 2], [0, 120]), "labels": LABELS}, 160, "indices of shape"),
        ({"indices": ("F32", [10, 2, 3], [0, 240]), "labels": LABELS}, 240, "dtype"),
        ({"indices": CODES, "labels": ("I32", [10], [80, 120])}, 160, "overlap"),
        ({"indices": CODES, "labels": ("I32", [10], [120, 160])}, 130, "bytes 120 to 160 of 130"),
        ({"indices": ("U16", [2**40, 2, 3], [0, 120]), "labels": LABELS}, 160, "120 bytes are not an array"),
        ({"indices": ("U16", [-10, -2, 3], [0, 120]), "labels": LABELS}, 160, "an array is claimed"),
        ({"indices": CODES, "labels": ("I32", [10], [160, 120])}, 160, "an array is claimed|overlap"),
        ({"indices": CODES, "labels": ("I32", [10], [-40, 0])}, 160, "an array is claimed|overlap"),
    ],
)
def test_a_shard_s_header_is_held_against_its_file(
    tmp_path: Path, entries: dict[str, tuple[str, list[int], list[int]]], data: int, message: str
) -> None:
    write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train")
    craft(tmp_path, {"indices": CODES, "labels": LABELS}, 160)
    assert len(TokenDataset(tmp_path)) == 10
    craft(tmp_path, entries, data)
    with pytest.raises(InputError, match=message):
        TokenDataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 100, b"\x08" + bytes(7) + b"[[[[[[[["])
def test_what_is_no_shard_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors is no"):
        map_shard(tmp_path / "a.safetensors")


@pytest.mark.parametrize("damage", ["", "[]", '{"count": 4}', '{"count": 4, "skipped": [], "counts": [1]}', "{"])
def test_a_damaged_record_says_what_to_remove(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_tokens(Pixels(), PixelTokenizer(), tmp_path / "whole", "train", config=EncodingConfig(4))
    cut, real = tmp_path / "cut", preparation._finish

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tokens(Pixels(), PixelTokenizer(), cut, "train", config=EncodingConfig(4))
    monkeypatch.setattr(preparation, "_finish", real)
    (cut / "progress" / "00001.json").write_text(damage)
    with pytest.raises(InputError, match=r"00001\.json.* remove "):
        write_tokens(Pixels(), PixelTokenizer(), cut, "train", config=EncodingConfig(4))
    (cut / "progress" / "00001.json").unlink()
    (cut / "plan.json").write_text((plan := (cut / "plan.json").read_text())[:-9])
    with pytest.raises(InputError, match=r"plan\.json is not the plan .* remove .*cut to encode"):
        write_tokens(Pixels(), PixelTokenizer(), cut, "train", config=EncodingConfig(4))
    (cut / "plan.json").write_text(plan)
    assert write_tokens(Pixels(), PixelTokenizer(), cut, "train", config=EncodingConfig(4)) == whole


def test_a_name_that_is_no_text_survives_in_a_record() -> None:
    one = Skipped('caf\udce9 \\ ".png', "cannot open 'caf\udce9'")
    assert preparation.unescaped(preparation.escaped(one)) == one
    assert preparation.escaped(one)["image"].isascii()


def test_order_visits_every_row_once_an_epoch_and_needs_no_history() -> None:
    order = ShuffledOrder(10, seed=4)
    whole = order.rows(0, 30)
    epochs = whole.reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(ShuffledOrder(10, seed=4).rows(7, 11), whole[7:18])
    assert not np.array_equal(ShuffledOrder(10, seed=5).rows(0, 30), whole)


class CaptionedPixels(Pixels):
    captions = ("", *(f"{number} häuser 🏠" for number in range(1, 10)))


@pytest.mark.parametrize("views", [None, Views(flips=True)])
def test_captions_are_kept_with_their_rows(tmp_path: Path, views: Views | None) -> None:
    config = EncodingConfig(images_per_shard=4)
    write_tokens(CaptionedPixels(), PixelTokenizer(), tmp_path, "train", views=views, config=config)
    shards = sorted(tmp_path.glob("shard-*"))
    read = [caption for shard in shards for caption in read_captions(shard)]
    per_image = 1 if views is None else views.per_image
    assert read == [caption for caption in CaptionedPixels.captions for _ in range(per_image)]
    indices, labels = TokenDataset(tmp_path).rows(np.arange(10 * per_image))
    assert indices.shape[0] == len(labels) == len(read)


def test_images_without_captions_have_shards_as_before(tmp_path: Path) -> None:
    write_tokens(Pixels(), PixelTokenizer(), tmp_path, "train")
    assert read_captions(tmp_path / "shard-00000.safetensors") == []
    assert set(load_file(tmp_path / "shard-00000.safetensors")) == {"indices", "labels"}


@pytest.mark.parametrize("ends", [[1, 2], [3, 2, 6], [1, 2, 5]], ids=["too few", "falling", "short"])
def test_captions_that_do_not_add_up_are_refused(tmp_path: Path, ends: list[int]) -> None:
    write_shard(tmp_path / "a", np.zeros((3, 1, 1)), np.zeros(3), 16, ["a", "bb", "ccc"])
    arrays = load_file(tmp_path / "a")
    save_file(arrays | {"caption_ends": np.asarray(ends, np.int32)}, tmp_path / "a")
    with pytest.raises(InputError, match="6 bytes of captions do not end where"):
        read_captions(tmp_path / "a")
