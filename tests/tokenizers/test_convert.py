"""Public tokenizers become ours: every tensor in its place, the same codes, the same images."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import save_file
from torch import Tensor

from purrception import PurrceptionPipeline
from purrception.storage import sha256_of
from purrception.storage.finite import NAMES_LISTED
from purrception.storage.foreign_weights import read_weights
from purrception.tokenizers import PUBLIC_TOKENIZERS, VQConfig, VQTokenizer, convert_tokenizer, open_tokenizer
from purrception.utils.errors import InputError
from tests.tokenizers.reference import PUBLISHED, Reference, random_images, random_reference

NARROW = {"base": 32, "codebook_size": 300}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public architectures at a width that a test can run."""
    for name, public in list(PUBLIC_TOKENIZERS.items()):
        latent = min(public.latent_channels, 16)
        narrow = dataclasses.replace(public, latent_channels=latent, **NARROW)
        monkeypatch.setitem(PUBLIC_TOKENIZERS, name, narrow)


LOSSES = {"loss.discriminator.main.0.weight": torch.zeros(2), "loss.perceptual_loss.lin0.weight": torch.ones(1)}


def lightning(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint as Lightning writes it: tensors among callbacks and whatever else."""
    return {
        "epoch": 3,
        "global_step": 7,
        "state_dict": tensors,
        "callbacks": {Callback: {"best": Callback("here")}},
        "hyper_parameters": Settings(a=Callback("b")),
        "seen": Names(["x"]),
    }


class Callback:
    """Stands for a class of a library that is not installed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder


class Settings(dict[str, Any]):
    pass


class Names(list[str]):
    pass


def save(reference: Reference, arch: str, path: Path) -> Path:
    """As its authors publish it."""
    tensors = reference.state_dict()
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".ckpt":
        torch.save(lightning(tensors if reference.llamagen else tensors | LOSSES), path)
    elif reference.llamagen:
        torch.save({"model": tensors, "steps": 3, "args": argparse.Namespace(lr=1e-4)}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("arch", PUBLISHED)
def test_a_converted_tokenizer_gives_the_same_codes_and_the_same_images(arch: str, tmp_path: Path) -> None:
    reference = random_reference(arch)
    path = save(reference, arch, tmp_path / ("model.pt" if reference.llamagen else "model.ckpt"))
    tokenizer = convert_tokenizer(path, arch, tmp_path / "out")
    images = random_images(4, tokenizer.downsampling * 9)[..., : tokenizer.downsampling * 7]
    indices = reference.encode(images)
    assert len(indices.unique()) >= 100
    assert torch.equal(tokenizer.encode(images), indices)
    expected = reference.decode(indices)
    assert expected.std() > 0.05
    torch.testing.assert_close(
        tokenizer.decode(indices), expected, atol=1e-4 * float(expected.abs().max()), rtol=0
    )
    loaded = VQTokenizer.load(tmp_path / "out")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.downsampling == 2 ** (len(PUBLISHED[arch].multipliers) - 1)
    assert loaded.image_channels == 3
    torch.testing.assert_close(loaded.codebook, reference.codes())


@pytest.mark.parametrize("kind", ["ckpt", "pt", "safetensors"])
@pytest.mark.parametrize("arch", ["vq-f4", "vq_ds8_c2i"])
def test_every_kind_of_file_gives_the_same_tokenizer(arch: str, kind: str, tmp_path: Path) -> None:
    reference = random_reference(arch.replace("_", "-"))
    path = save(reference, arch, tmp_path / f"model.{kind}")
    plain = tmp_path / "plain.pt"
    torch.save(reference.state_dict(), plain)
    assert open_tokenizer(path, arch).fingerprint == open_tokenizer(plain, arch).fingerprint


def test_the_moving_average_goes_before_the_weights(tmp_path: Path) -> None:
    average = random_reference("vq-ds8-c2i")
    now = {name: tensor + 1 for name, tensor in average.state_dict().items()}
    torch.save({"model": now, "ema": average.state_dict()}, tmp_path / "both.pt")
    assert torch.equal(open_tokenizer(tmp_path / "both.pt", "vq-ds8-c2i").codebook, average.codes())


def test_the_origin_is_recorded_and_stays_with_a_copy(tmp_path: Path) -> None:
    path = save(random_reference("vq-f8"), "vq-f8", tmp_path / "last.ckpt")
    convert_tokenizer(path, "vq-f8", tmp_path / "out", sha256=sha256_of(path)[:16])
    origin = json.loads((tmp_path / "out/origin.json").read_text())
    assert origin == {
        "source": "last.ckpt",
        "arch": "vq-f8",
        "sha256": sha256_of(path),
        "codebook_normalised": False,
        "dropped": list(LOSSES),
    }
    convert_tokenizer(tmp_path / "out", "", tmp_path / "copy")
    assert json.loads((tmp_path / "copy/origin.json").read_text()) == origin
    path = save(random_reference("vq-ds8-c2i"), "vq-ds8-c2i", tmp_path / "ds8.pt")
    convert_tokenizer(path, "vq-ds8-c2i", tmp_path / "ds8")
    assert json.loads((tmp_path / "ds8/origin.json").read_text())["codebook_normalised"] is True
    with pytest.raises(InputError, match=r"is not the expected file: its SHA-256 is \w{64}, not abc"):
        convert_tokenizer(path, "vq-ds8-c2i", tmp_path / "no", sha256="abc")
    assert not (tmp_path / "no").exists()


def test_unit_codes_are_nearest_whether_or_not_the_latents_are_normalised(tmp_path: Path) -> None:
    reference = random_reference("vq-ds16-c2i")
    tokenizer = open_tokenizer(save(reference, "", tmp_path / "m.pt"), "vq-ds16-c2i")
    images = random_images(2, 96)
    lengths = tokenizer.vq.encode(images).latents.norm(dim=1)
    assert lengths.std() > 0.01  # not normalised, ours; the reference normalises
    assert torch.equal(tokenizer.encode(images), reference.encode(images))
    torch.testing.assert_close(tokenizer.codebook.norm(dim=1), torch.ones(300))


def test_missing_left_over_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    tensors = random_reference("vq-f4").state_dict()
    del tensors["decoder.norm_out.weight"], tensors["encoder.mid.attn_1.q.bias"]
    tensors["quantize.used"] = torch.zeros(3)
    tensors["decoder.conv_out.bias"] = torch.zeros(4)
    torch.save(tensors, tmp_path / "odd.pt")
    with pytest.raises(InputError) as caught:
        open_tokenizer(tmp_path / "odd.pt", "vq-f4")
    message = str(caught.value)
    assert "missing: decoder.norm_out.weight, encoder.mid.attn_1.q.bias;" in message
    assert "left over: quantize.used;" in message
    assert "of another shape: decoder.conv_out.bias [4], expected [3]" in message
    assert "no known tokenizer fits it" in message


def test_a_wrong_architecture_is_told_the_right_one(tmp_path: Path) -> None:
    path = save(random_reference("vq-ds16-t2i"), "", tmp_path / "model.pt")
    with pytest.raises(
        InputError, match="is no vq-f8: its tensors are those of vq-ds16-c2i or vq-ds16-t2i"
    ) as caught:
        open_tokenizer(path, "vq-f8")
    listed = str(caught.value).split("left over:")[1].split(";")[0]
    assert listed.count(",") == NAMES_LISTED - 1
    assert "more" in listed
    with pytest.raises(InputError, match="unknown tokenizer architecture 'vq-f9': did you mean 'vq-f8'"):
        open_tokenizer(path, "vq-f9")
    with pytest.raises(InputError, match="say which tokenizer it holds"):
        open_tokenizer(path)
    with pytest.raises(InputError, match="no weights file at"):
        open_tokenizer(tmp_path / "nothing.ckpt", "vq-f8")
    with pytest.raises(InputError, match="a folder, which describes itself"):
        open_tokenizer(tmp_path, "vq-f8")


class Malicious:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.system, eval, open])
def test_a_pickle_that_would_run_code_runs_none(call: Any, legacy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    arguments = {os.system: (f"touch {mark}",), eval: (f"open({str(mark)!r}, 'w')",), open: (str(mark), "w")}[call]
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": Malicious(call, *arguments)}
    torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    if legacy:
        with pytest.raises(InputError, match="cannot read"):
            read_weights(tmp_path / "evil.ckpt")
    else:
        assert torch.equal(read_weights(tmp_path / "evil.ckpt")["state_dict"]["a"], torch.ones(2))
    assert not mark.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert mark.exists()  # so the file was dangerous


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = save(random_reference("vq-f4"), "", tmp_path / f"model.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot read"):
        open_tokenizer(path, "vq-f4")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot read"):
        open_tokenizer(path, "vq-f4")


def test_a_file_without_tensors_and_a_code_without_direction_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "empty.ckpt")
    with pytest.raises(InputError, match="holds no named tensors"):
        open_tokenizer(tmp_path / "empty.ckpt", "vq-f4")
    tensors = random_reference("vq-ds8-c2i").state_dict()
    tensors["quantize.embedding.weight"][7] = 0
    torch.save(tensors, tmp_path / "zero.pt")
    with pytest.raises(InputError, match="a code is zero"):
        open_tokenizer(tmp_path / "zero.pt", "vq-ds8-c2i")


@pytest.mark.parametrize("arch", ["vq-f4", "vq-ds8-c2i"])
def test_weights_that_are_no_numbers_are_refused(arch: str, tmp_path: Path) -> None:
    tensors = random_reference(arch).state_dict()
    tensors["quantize.embedding.weight"][7] = float("nan")
    torch.save(tensors, tmp_path / "nan.pt")
    size, dim = tensors["quantize.embedding.weight"].shape
    with pytest.raises(InputError, match=rf"nan\.pt holds .*embedding\.weight \({dim} of {size * dim}\)"):
        open_tokenizer(tmp_path / "nan.pt", arch)


def test_diffusers_folders_and_the_hub_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_tokenizer(save(random_reference("vq-f4"), "", tmp_path / "m.pt"), "vq-f4")
    made.save(tmp_path / "hub/vqvae")
    images = torch.rand(1, 3, 16, 16)
    loaded = open_tokenizer(tmp_path / "hub/vqvae")
    assert loaded.fingerprint == made.fingerprint
    torch.testing.assert_close(loaded.decode(loaded.encode(images)), loaded.vq(images).sample)

    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str], **_: object) -> str:
        if repository != "someone/tokenizer":
            raise OSError("404: no such repository")
        asked.extend(allow_patterns)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    convert_tokenizer("hub:someone/tokenizer/vqvae", "", tmp_path / "copy")
    assert asked == ["vqvae/config.json", "vqvae/*.safetensors", "vqvae/*.bin", "vqvae/SHA256SUMS"]
    assert VQTokenizer.load(tmp_path / "copy").fingerprint == made.fingerprint
    assert json.loads((tmp_path / "copy/origin.json").read_text())["source"] == "someone/tokenizer/vqvae"
    with pytest.raises(InputError, match="no tokenizer at nobody/tokenizer on the hub: 404"):
        open_tokenizer("hub:nobody/tokenizer")
    with pytest.raises(InputError, match="no tokenizer at"):
        open_tokenizer("nowhere")


def test_a_folder_that_lacks_a_tensor_or_holds_another_model_is_refused(tmp_path: Path) -> None:
    made = open_tokenizer(save(random_reference("vq-f4"), "", tmp_path / "m.pt"), "vq-f4")
    made.save(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    save_file({n: t for n, t in made.vq.state_dict().items() if n != "quant_conv.bias"}, weights)
    with pytest.raises(InputError, match=r"missing_keys.*quant_conv\.bias"):
        VQTokenizer.load(tmp_path, verify=False)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"VQModel"', '"AutoencoderKL"'))
    with pytest.raises(InputError, match="it is a AutoencoderKL, expected VQModel"):
        VQTokenizer.load(tmp_path, verify=False)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "first_stage_model."])
def test_prefixes_of_wrappers_go_and_it_is_said(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = random_reference("vq-f4")
    tensors = {f"{prefix}{name}": tensor for name, tensor in reference.state_dict().items()}
    if prefix == "first_stage_model.":
        tensors["model.diffusion_model.out.weight"] = torch.ones(3)  # the larger model's own
    torch.save({"state_dict": tensors}, tmp_path / "m.ckpt")
    images = random_images(1, 32)
    tokenizer = open_tokenizer(tmp_path / "m.ckpt", "vq-f4")
    assert torch.equal(tokenizer.encode(images), reference.encode(images))
    said = capsys.readouterr().err
    assert said.startswith("m.ckpt: ")
    assert all(f"{part}." in said for part in prefix.split(".") if part)
    torch.save({"state_dict": tensors | {f"{prefix}odd": torch.ones(2)}}, tmp_path / "m.ckpt")
    with pytest.raises(InputError, match=r"left over: .*odd"):
        open_tokenizer(tmp_path / "m.ckpt", "vq-f4")


def test_a_compiled_part_of_a_network_is_found(tmp_path: Path) -> None:
    reference = random_reference("vq-f4")
    names = {name: name.replace("encoder.", "encoder._orig_mod.") for name in reference.state_dict()}
    torch.save({names[name]: tensor for name, tensor in reference.state_dict().items()}, tmp_path / "m.pt")
    assert torch.equal(open_tokenizer(tmp_path / "m.pt", "vq-f4").codebook, reference.codes())
    torch.save({"a.b": torch.ones(1), "module.a.b": torch.ones(1)}, tmp_path / "twice.pt")
    with pytest.raises(InputError, match=r"names differ only by module\."):
        open_tokenizer(tmp_path / "twice.pt", "vq-f4")


def test_one_may_choose_between_average_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    average, now = random_reference("vq-ds8-c2i"), random_reference("vq-ds8-c2i")
    torch.save({"model": now.state_dict(), "ema": average.state_dict()}, tmp_path / "both.pt")
    for ema, wanted, word in ((True, average, "ema is used"), (False, now, "model is used")):
        made = convert_tokenizer(tmp_path / "both.pt", "vq-ds8-c2i", tmp_path / str(ema), ema=ema)
        torch.testing.assert_close(made.codebook, wanted.codes())
        assert word in capsys.readouterr().err


def test_a_folder_of_half_precision_alone_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = open_tokenizer(save(random_reference("vq-f4"), "", tmp_path / "m.pt"), "vq-f4")
    made.vq.half().save_pretrained(tmp_path / "half", variant="fp16")
    assert [path.name for path in (tmp_path / "half").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    loaded = open_tokenizer(tmp_path / "half")
    assert loaded.vq.dtype == torch.float32
    assert torch.equal(loaded.codebook, made.codebook)
    assert "only weights of the variant fp16" in capsys.readouterr().err


def amused() -> VQModel:
    """aMUSEd's tokenizer, narrow; as its authors converted it."""
    torch.manual_seed(0)
    made = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=2,
        norm_num_groups=8,
        num_vq_embeddings=64,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    ).eval()
    with torch.no_grad():
        sites = made.encode(torch.rand(4, 3, 16, 16)).latents.permute(0, 2, 3, 1).flatten(0, 2)
        made.quantize.embedding.weight.copy_(sites[torch.randperm(len(sites))[:64]])
    return made


@pytest.fixture
def said_by_diffusers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Its warnings about configurations."""
    from diffusers.configuration_utils import logger

    said: list[str] = []
    monkeypatch.setattr(logger, "warning", said.append)
    return said


def test_pixels_of_amused_lie_in_its_own_range(tmp_path: Path, said_by_diffusers: list[str]) -> None:
    """Its pipeline feeds VaeImageProcessor(do_normalize=False)'s pixels, and shows what is decoded as it is."""
    public = amused()
    public.save_pretrained(tmp_path / "amused")
    tokenizer = convert_tokenizer(tmp_path / "amused", "", tmp_path / "ours")
    images = random_images(2, 16)
    with torch.no_grad():
        latents = public.encode(images / 2 + 0.5).latents
        indices = public.quantize(latents)[2][2].view(2, 8, 8)
        shown = public.decode(indices, force_not_quantize=True, shape=(2, 8, 8, 4)).sample
    wrong = VQTokenizer.load(tmp_path / "amused", (-1.0, 1.0))
    for made in (tokenizer, VQTokenizer.load(tmp_path / "ours"), VQTokenizer.load(tmp_path / "amused")):
        assert made.input_range == (0, 1)
        assert (made.encode(images) == indices).float().mean() > 0.99
        torch.testing.assert_close(made.decode(indices), 2 * shown - 1, atol=1e-4, rtol=0)
        assert made.fingerprint == tokenizer.fingerprint != wrong.fingerprint
    assert not said_by_diffusers  # such as that a setting will be ignored
    assert (wrong.encode(images) == indices).float().mean() < 0.8
    plain = VQModel.from_pretrained(tmp_path / "ours")  # as its authors use it
    with torch.no_grad():
        torch.testing.assert_close(plain.encode(images / 2 + 0.5).latents, latents)
    convert_tokenizer(tmp_path / "amused", "", tmp_path / "signed", input_range=(-1.0, 1.0))
    assert VQTokenizer.load(tmp_path / "signed").fingerprint == wrong.fingerprint
    with pytest.raises(InputError, match="from black to a larger white"):
        VQTokenizer.load(tmp_path / "amused", (1.0, 0.0))


def test_a_pipeline_keeps_the_range_of_pixels(
    tiny_run: Path, tmp_path: Path, said_by_diffusers: list[str]
) -> None:
    made = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")
    VQTokenizer(made.vqvae).save(tmp_path / "tokenizer")
    other = VQTokenizer.load(tmp_path / "tokenizer", (0.0, 1.0))
    PurrceptionPipeline(made.transformer, other.vq, tokenizer_hash=other.fingerprint).save_pretrained(
        tmp_path / "pipeline"
    )
    loaded = PurrceptionPipeline.from_pretrained(tmp_path / "pipeline").tokenizer
    assert not said_by_diffusers
    assert loaded.input_range == (0, 1)
    assert loaded.fingerprint == other.fingerprint != made.tokenizer.fingerprint


def test_plain_diffusers_refuses_a_network_without_normalisation(tmp_path: Path) -> None:
    made = VQTokenizer(VQConfig(16, 3, (8, 8), normalisation="none").build(1, 16))
    made.save(tmp_path / "none")
    with pytest.raises(ValueError, match="UnnormalisedDownEncoderBlock2D does not exist"):
        VQModel.from_pretrained(tmp_path / "none", low_cpu_mem_usage=False)
    file = tmp_path / "none/config.json"
    file.write_text(file.read_text().replace('"Unnormalised', '"').replace('"VQModel"', '"UnnormalisedVQModel"'))
    (tmp_path / "none/SHA256SUMS").unlink()
    old = convert_tokenizer(tmp_path / "none", "", tmp_path / "again")  # as folders were written before
    assert old.fingerprint == made.fingerprint
    assert "UnnormalisedUpDecoderBlock2D" in (tmp_path / "again/config.json").read_text()
