"""Token shards: written, mapped, verified, shuffled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor

from purrception.data import Views
from purrception.errors import InputError
from purrception.tokens import EncodingConfig, Manifest, ShuffledOrder, Standardisation, TokenDataset, write_tokens


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

    def picture(self, index: int) -> tuple[Image.Image, int]:
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


def test_order_visits_every_row_once_an_epoch_and_needs_no_history() -> None:
    order = ShuffledOrder(10, seed=4)
    whole = order.rows(0, 30)
    epochs = whole.reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(ShuffledOrder(10, seed=4).rows(7, 11), whole[7:18])
    assert not np.array_equal(ShuffledOrder(10, seed=5).rows(0, 30), whole)
