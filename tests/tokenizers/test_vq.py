"""The tokenizer and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from purrception.data import DataConfig, open_images, tensor_to_images
from purrception.tokenizers import TokenizerTrainingConfig, VQConfig, VQTokenizer, train_tokenizer
from purrception.tokenizers.quality import measure
from purrception.utils.errors import InputError

TINY = VQConfig(codebook_size=16, codebook_dim=3, channels=(8, 8))


@pytest.fixture
def tokenizer() -> VQTokenizer:
    torch.manual_seed(0)
    vq = TINY.build(image_channels=1, image_size=16)
    torch.nn.init.normal_(vq.quantize.embedding.weight, std=0.3)
    return VQTokenizer(vq)


def test_encode_chooses_the_nearest_code(tokenizer: VQTokenizer) -> None:
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    indices = tokenizer.encode(images)
    assert indices.shape == (3, 8, 8)
    latents = tokenizer.vq.encode(images).latents.permute(0, 2, 3, 1)
    distances = (latents[..., None, :] - tokenizer.codebook).square().sum(-1)
    assert torch.equal(indices, distances.argmin(-1))


def test_decode_of_encode_is_the_forward_pass_of_the_network(tokenizer: VQTokenizer) -> None:
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    rebuilt = tokenizer.decode(tokenizer.encode(images))
    torch.testing.assert_close(rebuilt, tokenizer.vq(images).sample)


def test_an_image_does_not_depend_on_those_decoded_beside_it(tokenizer: VQTokenizer) -> None:
    indices = torch.randint(len(tokenizer.codebook), (37, 8, 8))
    together = tokenizer.decode(indices)
    for size in (1, 5, 32):
        assert torch.equal(torch.cat([tokenizer.decode(part) for part in indices.split(size)]), together)
    assert np.array_equal(tokenizer.decode_images(indices), tensor_to_images(together))


def test_a_saved_tokenizer_is_the_same_and_so_is_its_fingerprint(tokenizer: VQTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = VQTokenizer.load(tmp_path)
    images = torch.rand(2, 1, 16, 16)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    with torch.no_grad():
        loaded.vq.quantize.embedding.weight[0, 0] += 1e-3
    assert loaded.fingerprint != tokenizer.fingerprint


def test_without_normalisation_an_image_keeps_its_contrast_through_saving_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 16, 16) - 0.5
    contrast = {}
    for normalisation in ("group", "none"):
        tokenizer = VQTokenizer(replace(TINY, normalisation=normalisation).build(1, 16))
        tokenizer.save(tmp_path / normalisation)
        loaded = VQTokenizer.load(tmp_path / normalisation).vq
        assert type(loaded) is type(tokenizer.vq)
        full, half = (loaded.encode(scale * images).latents for scale in (1.0, 0.5))
        assert torch.equal(full, tokenizer.vq.encode(images).latents)
        contrast[normalisation] = float(half.std(dim=(2, 3)).mean() / full.std(dim=(2, 3)).mean())
    assert contrast["group"] == pytest.approx(1, abs=0.05)
    assert contrast["none"] < 0.7


def test_missing_and_damaged_tokenizers_are_refused(tokenizer: VQTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer at"):
        VQTokenizer.load(tmp_path / "nowhere")
    tokenizer.save(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged or altered"):
        VQTokenizer.load(tmp_path)
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        VQTokenizer.load(tmp_path, verify=False)


def test_training_improves_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    config = TokenizerTrainingConfig(steps=30, batch_size=16, report_every=10)
    source, held_out = (open_images(DataConfig(), split) for split in ("train", "test"))
    state = torch.random.get_rng_state()
    first = train_tokenizer(TINY, config, source, held_out, tmp_path / "a", seed=1)
    second = train_tokenizer(TINY, config, source, held_out, tmp_path / "b", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.fingerprint == second.fingerprint
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert (tmp_path / "a" / "config.json").is_file()
    images = torch.stack([torch.from_numpy(held_out[i][0]).permute(2, 0, 1) for i in range(50)])
    measured = measure(first, images / 127.5 - 1)
    assert measured.psnr > 10  # an image of one colour gives 7 dB
    assert measured.usage > 0.5


def test_a_threshold_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="dead_code_threshold"):
        TokenizerTrainingConfig(dead_code_threshold=-1)


def test_measure_of_a_collapsed_codebook_says_so(tokenizer: VQTokenizer) -> None:
    with torch.no_grad():
        tokenizer.vq.quantize.embedding.weight.fill_(0.1)
    measured = measure(tokenizer, torch.rand(4, 1, 16, 16))
    assert measured.usage == 1 / 16
    assert measured.perplexity == pytest.approx(1)


def test_impossible_architectures_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        VQConfig(channels=(12,))
    with pytest.raises(InputError, match="codebook_size"):
        VQConfig(codebook_size=1)
    with pytest.raises(InputError, match="not a multiple of the tokenizer's downsampling 4"):
        VQConfig(channels=(8, 8, 8)).build(image_channels=1, image_size=18)
