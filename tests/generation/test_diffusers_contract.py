"""The pipeline as a user of diffusers calls it."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from purrception import PurrceptionOutput, PurrceptionPipeline, PurrceptionScheduler, PurrceptionTransformer
from purrception.flow import SOLVERS, ObjectiveConfig, SamplingConfig, build_objective, nearest_codes
from purrception.generation.sampler import KeyedDraws
from purrception.storage.model_folder import variants_in
from purrception.tokenizers import VQConfig
from purrception.utils.errors import InputError
from tests.conftest import network_for, run_cli

STEPWISE = [name for name in SOLVERS if name != "dopri5"]


@pytest.fixture
def pipe(tiny_run: Path) -> PurrceptionPipeline:
    return PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")


@pytest.fixture
def dfm() -> PurrceptionPipeline:
    network = network_for(build_objective(ObjectiveConfig(name="dfm")))
    tokenizer = VQConfig(codebook_size=17, codebook_dim=3, channels=(8, 8)).build(1, 8)
    return PurrceptionPipeline(network, tokenizer, objective="dfm")


def same(one: PurrceptionOutput, other: PurrceptionOutput) -> bool:
    """The same codes; the last bits of numbers may depend on the size of a batch and on where weights lie."""
    return torch.equal(one.indices, other.indices) and torch.allclose(one.entropy, other.entropy, atol=1e-5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("given", "labels"),
    [(3, [3]), ("3", [3]), ([3, "7"], [3, 7]), (torch.tensor([3, 7]), [3, 7]), (np.array([3, 7]), [3, 7])],
)
def test_class_labels_are_one_or_many_numbers_or_names(
    pipe: PurrceptionPipeline, given: Any, labels: list[int]
) -> None:
    assert pipe(given, num_inference_steps=1).labels == labels


def test_several_images_for_each_label(pipe: PurrceptionPipeline) -> None:
    out = pipe([3, 7], num_images_per_prompt=2)
    assert out.labels == [3, 3, 7, 7]
    assert same(out, pipe([3, 3, 7, 7]))
    with pytest.raises(InputError, match="num_images_per_prompt is at least 1; given 0"):
        pipe(3, num_images_per_prompt=0)


@pytest.mark.parametrize("settings", [{}, {"solver": "stochastic"}, {"last_step": "draw"}])
def test_a_generator_gives_all_random_numbers(pipe: PurrceptionPipeline, settings: dict[str, Any]) -> None:
    first, again, other = (pipe([3, 7], generator=seeded(seed), **settings) for seed in (5, 5, 6))
    assert same(first, again)
    assert not torch.equal(first.indices, other.indices)
    generator = seeded(5)
    one, two = (pipe([3, 7], generator=generator, **settings) for _ in range(2))
    assert same(one, first)
    assert not torch.equal(one.indices, two.indices)


def test_a_list_has_a_generator_for_each_image(pipe: PurrceptionPipeline) -> None:
    together = pipe([3, 7, 1], generator=[seeded(4), seeded(5), seeded(6)], solver="stochastic", batch_size=2)
    alone = pipe(7, generator=seeded(5), solver="stochastic")
    assert torch.equal(together.indices[1:2], alone.indices)
    with pytest.raises(InputError, match="one for each image; given 1 for 2"):
        pipe([3, 7], generator=[seeded(4)])
    with pytest.raises(InputError, match="a generator or a seed, not both"):
        pipe([3, 7], generator=seeded(4), seed=4)


def test_latents_by_hand_are_the_start(pipe: PurrceptionPipeline) -> None:
    labels = [3, 7, 1]
    noise = KeyedDraws(9, range(3), pipe.transformer).normal(0)
    assert same(pipe(labels, latents=noise, batch_size=2), pipe(labels, seed=9))
    with pytest.raises(InputError, match=r"latents have the shape \[1, 3, 4, 4\] here; given \[3, 3, 4, 4\]"):
        pipe(3, latents=noise)


def test_output_types_are_those_of_diffusers(pipe: PurrceptionPipeline) -> None:
    kinds = {kind: pipe([3, 7], output_type=kind).images for kind in ("pil", "np", "pt", "latent")}
    pixels = np.stack([np.asarray(image) for image in kinds["pil"]])[..., None] / 255
    assert kinds["np"].shape == (2, 16, 16, 1)
    assert kinds["np"].dtype == np.float32
    assert np.abs(kinds["np"] - pixels).max() <= 0.501 / 255
    assert torch.equal(kinds["pt"].permute(0, 2, 3, 1), torch.from_numpy(kinds["np"]))
    # latents are what the decoder takes, quantised again or not
    for force_not_quantize in (True, False):
        decoded = pipe.vqvae.decode(kinds["latent"], force_not_quantize=force_not_quantize).sample
        torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), kinds["pt"], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="unknown output_type 'pill': did you mean 'pil'"):
        pipe(3, output_type="pill")


def test_a_tuple_has_the_images_first(pipe: PurrceptionPipeline) -> None:
    images, indices, *_ = pipe(3, return_dict=False)
    assert isinstance(images[0], Image.Image)
    assert torch.equal(indices, pipe(3).indices)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_sees_every_step_and_leaves_the_images_alone(pipe: PurrceptionPipeline, solver: str) -> None:
    seen: list[tuple[int, float]] = []

    def callback(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert given is pipe
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            "latents": (2, 3, 4, 4),
            "mean": (2, 3, 4, 4),
            "entropy": (2, 4, 4),
        }
        seen.append((step, t))
        return tensors

    inputs = ["latents", "mean", "entropy"]
    plain = pipe([3, 7], solver=solver, num_inference_steps=4)
    out = pipe(
        [3, 7],
        solver=solver,
        num_inference_steps=4,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=inputs,
    )
    assert same(plain, out)
    assert [step for step, _ in seen] == [*range(1 if solver == "dopri5" else out.nfe)]
    assert all(t <= s for (_, t), (_, s) in pairwise(seen))  # heun evaluates twice at a time


def test_what_a_callback_returns_is_where_sampling_goes_on(pipe: PurrceptionPipeline) -> None:
    codes = torch.tensor([[[3]]]).expand(1, 4, 4)

    def at_the_end(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": pipe.transformer.embed(codes)} if step == 2 else {}

    assert torch.equal(pipe(3, callback_on_step_end=at_the_end).indices, codes)

    def restart(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        return {"latents": KeyedDraws(9, range(1), pipe.transformer).normal(0)} if step == 0 else None

    changed = pipe(3, num_inference_steps=8, callback_on_step_end=restart)
    assert not same(changed, pipe(3, num_inference_steps=8))
    with pytest.raises(
        InputError, match="unknown callback_on_step_end_tensor_inputs 'latent': did you mean 'latents"
    ):
        pipe(3, callback_on_step_end=restart, callback_on_step_end_tensor_inputs=["latent"])


def test_a_callback_of_diffusers_says_itself_what_it_needs(pipe: PurrceptionPipeline) -> None:
    from diffusers.callbacks import PipelineCallback

    class Watching(PipelineCallback):
        tensor_inputs = ["mean"]  # noqa: RUF012  # as diffusers declares it

        def callback_fn(self, pipeline: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            assert [*tensors] == ["mean"]
            steps.append(step)
            return tensors

    steps: list[int] = []
    pipe(3, callback_on_step_end=Watching(cutoff_step_ratio=None, cutoff_step_index=1))
    assert steps == [0, 1, 2]


def test_an_interrupt_decodes_what_there_is(pipe: PurrceptionPipeline) -> None:
    reached: list[Tensor] = []

    def stop(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        given._interrupt = step == 2
        reached.append(tensors["latents"])
        return tensors

    out = pipe(3, num_inference_steps=8, callback_on_step_end=stop)
    assert (len(reached), out.nfe) == (3, 3)
    assert torch.equal(out.indices, nearest_codes(reached[-1], pipe.transformer.codebook))
    assert pipe(3, num_inference_steps=8).nfe == 8


def test_a_model_of_masks_has_callbacks_too(dfm: PurrceptionPipeline) -> None:
    states: list[Tensor] = []

    def watch(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"])
        return tensors

    out = dfm([1, 2], num_inference_steps=4, callback_on_step_end=watch)
    assert torch.equal(out.indices, dfm([1, 2], num_inference_steps=4).indices)
    masked = [int((state < 0).sum()) for state in states]
    assert masked == sorted(masked, reverse=True)
    assert 0 < masked[0] < 48
    assert masked[-1] == 0
    fixed = dfm(1, callback_on_step_end=lambda pipe, step, t, tensors: {"latents": torch.full((1, 4, 6), 5)})
    assert bool((fixed.indices == 5).all())

    def stop(given: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        given._interrupt = True
        return tensors

    assert dfm(1, num_inference_steps=4, callback_on_step_end=stop).nfe == 1
    with pytest.raises(InputError, match="starts from masks, not from noise: leave latents out"):
        dfm(1, latents=torch.zeros(1, 3, 4, 6))
    with pytest.raises(InputError, match="unmasks codes: it has no state z_t"):
        dfm.predict(torch.zeros(1, 3, 4, 6), 0.5, 1)


def test_the_progress_bar_can_be_turned_off(pipe: PurrceptionPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(3)
    assert "sampling 1/1" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(3)
    assert capsys.readouterr().err == ""


def test_a_call_and_the_command_make_the_same_images_with_nothing_given(tiny_run: Path, tmp_path: Path) -> None:
    pipe = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")
    pipe.scheduler = PurrceptionScheduler.from_config(pipe.scheduler.config, temperature=0.5, solver="dpmpp_2m")
    pipe.save_pretrained(tmp_path / "pipeline")
    done = run_cli("sample", tmp_path / "pipeline", "--num", "3", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = PurrceptionPipeline.from_pretrained(tmp_path / "pipeline")(num_images=3)
    for number, image in enumerate(out.images):
        with Image.open(tmp_path / f"made/{number:05d}.png") as made:
            assert np.array_equal(np.asarray(made), np.asarray(image))
    made_so = json.loads((tmp_path / "made/manifest.json").read_text())
    assert (made_so["temperature"], made_so["solver"], made_so["nfe"]) == (0.5, "dpmpp_2m", out.nfe)
    assert not same(out, pipe(num_images=3, temperature=1.0))


def loop(pipe: PurrceptionPipeline, labels: list[int], generator: torch.Generator, start: int = 0) -> Tensor:
    """Codes by a loop that knows nothing but the interface of a scheduler."""
    scheduler = pipe.scheduler
    latents = torch.randn(len(labels), *pipe.latent_shape, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps[start:]:
        given = scheduler.scale_model_input(latents, t)
        mean = pipe.predict(given, t, labels).mean
        latents = scheduler.step(mean, t, latents, generator=generator, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("solver", STEPWISE)
def test_a_loop_of_ones_own_makes_the_pipeline_s_images(pipe: PurrceptionPipeline, solver: str) -> None:
    pipe.scheduler = PurrceptionScheduler.from_config(
        pipe.scheduler.config, solver=solver, temperature="linear:1.0:0.6", guidance_scale=1.5
    )
    pipe.scheduler.set_timesteps(6)
    ends: list[Tensor] = []
    out = pipe(
        [3, 7],
        num_inference_steps=6,
        generator=seeded(4),
        callback_on_step_end=lambda pipe, step, t, tensors: ends.append(tensors["latents"]),
    )
    for _ in range(2):  # the loop can be run again
        end = loop(pipe, [3, 7], seeded(4))
        assert torch.equal(end, ends[-1])
    assert torch.equal(nearest_codes(end, pipe.transformer.codebook), out.indices)
    assert len(pipe.scheduler.timesteps) * 2 == out.nfe
    assert pipe.scheduler.order == {"heun": 2, "midpoint": 2}.get(solver, 1)
    assert pipe.scheduler.timesteps[0] == 0
    assert pipe.scheduler.timesteps.is_cpu


@pytest.mark.parametrize("solver", STEPWISE)
def test_a_loop_can_begin_later_and_change_its_state(solver: str) -> None:
    scheduler = PurrceptionScheduler(solver=solver, eta=0.0)
    scheduler.set_timesteps(10)
    data, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    z = scheduler.add_noise(data, noise, torch.tensor([0.5]))
    torch.testing.assert_close(z, (data + noise) / 2)
    begin = 5 * scheduler.order
    for t in scheduler.timesteps[begin:].float():
        z = scheduler.step(data, t, z).prev_sample
        path = torch.lerp(noise, data, float(scheduler._t or 1))  # on which a perfect model stays
        torch.testing.assert_close(z, path, atol=1e-5, rtol=0)
    scheduler.set_timesteps(10)
    half = scheduler.step(data.bfloat16(), 0.0, noise.bfloat16()).prev_sample
    assert half.dtype == torch.bfloat16
    if solver in ("euler", "dpmpp_2m", "stochastic"):
        moved = scheduler.step(data, scheduler.timesteps[1], data).prev_sample
        torch.testing.assert_close(moved, data)


def test_a_scheduler_says_how_it_is_used() -> None:
    scheduler = PurrceptionScheduler()
    z = torch.zeros(1, 3, 4, 4)
    with pytest.raises(InputError, match="call set_timesteps before"):
        scheduler.step(z, 0.0, z)
    scheduler.set_timesteps(4)
    scheduler.step(z, 0.0, z)
    copy.deepcopy(scheduler)  # in the middle of a loop
    with pytest.raises(InputError, match=r"the next evaluation is at t = 0\.25; given 0\.5: .* set_timesteps"):
        scheduler.step(z, 0.5, z)
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match=r"begins at a time from 0 to below 1; given 1\.0"):
        scheduler.step(z, 1.0, z)
    with pytest.raises(InputError, match="dopri5 chooses its steps from the data"):
        PurrceptionScheduler(solver="dopri5").set_timesteps(4)
    with pytest.raises(InputError, match="did you mean 'euler'"):
        PurrceptionScheduler(solver="eulr")


def test_the_scheduler_holds_the_defaults_of_a_call(pipe: PurrceptionPipeline, tmp_path: Path) -> None:
    assert pipe.scheduler.settings == SamplingConfig(num_inference_steps=3) == pipe.default_settings()
    assert pipe(3).nfe == 3
    pipe.scheduler = PurrceptionScheduler.from_config(pipe.scheduler.config, solver="heun")
    assert pipe(3).nfe == 5
    assert pipe(3, solver="euler", temperature=None).nfe == 3
    assert pipe.vary(pipe(3).images[0], strength=1).nfe == 5
    pipe.scheduler.save_pretrained(tmp_path)
    assert PurrceptionScheduler.from_pretrained(tmp_path).settings == pipe.scheduler.settings
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    for use in (lambda: pipe(3), lambda: pipe.save_pretrained(tmp_path / "saved")):
        with pytest.raises(InputError, match="scheduler is a PurrceptionScheduler; given FlowMatchEuler"):
            use()
    assert not (tmp_path / "saved").exists()


def test_parts_and_placement_as_diffusers_takes_them(tiny_run: Path, tmp_path: Path) -> None:
    source = tiny_run / "pipeline"
    load = PurrceptionPipeline.from_pretrained
    whole = load(source, use_safetensors=True, local_files_only=True, cache_dir=tmp_path, token="none")
    for name in ("dtype", "torch_dtype"):
        half = load(source, **{name: torch.bfloat16})
        assert (half.transformer.dtype, half.vqvae.dtype) == (torch.bfloat16, torch.bfloat16)
    half = load(source, dtype={"transformer": torch.bfloat16, "default": torch.float32}, device_map="cpu")
    assert (half.transformer.dtype, half.vqvae.dtype) == (torch.bfloat16, torch.float32)
    parts = load(
        source,
        transformer=whole.transformer,
        vqvae=whole.vqvae,
        scheduler=PurrceptionScheduler(num_inference_steps=7),
        device_map={"transformer": "cpu", "vqvae": torch.device("cpu")},
    )
    assert parts.transformer is whole.transformer
    assert parts.vqvae is whole.vqvae
    assert parts(3).nfe == 7
    assert [*parts.components] == ["transformer", "vqvae", "scheduler"]
    assert same(PurrceptionPipeline(**whole.components)(3), whole(3))
    assert same(PurrceptionPipeline.from_pipe(whole)(3), whole(3))
    assert same(load(tiny_run, subfolder="pipeline")(3), whole(3))
    converted = load(source).to(torch.bfloat16)
    assert converted.dtype == torch.bfloat16
    assert converted(3).images[0].size == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype is one of torch's, such as torch.bfloat16; given 'float16'"),
        ({"dtype": torch.float16, "torch_dtype": torch.bfloat16}, "dtype and torch_dtype mean the same"),
        ({"dtype": {"unet": torch.float16}}, "unknown model in dtype 'unet'"),
        ({"device": "cpu", "device_map": "cuda"}, "device and device_map mean the same"),
        ({"device_map": "gpu"}, "the device 'gpu' cannot be used here"),
        ({"device_map": {"unet": 0}}, "unknown model in device_map 'unet'"),
        ({"use_safetensors": False}, "safetensors alone"),
        ({"variant": "fp16"}, "no weights of the variant 'fp16'"),
        ({"subfolder": "elsewhere"}, "no pipeline in .*elsewhere"),
        ({"trust_remote_code": True}, "no code is ever loaded with a pipeline: leave trust_remote_code out"),
        ({"custom_pipeline": "x"}, "no code is ever loaded"),
        ({"safety_checker": None}, "unknown option of from_pretrained 'safety_checker'"),
    ],
)
def test_options_without_a_meaning_say_what_to_do(tiny_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PurrceptionPipeline.from_pretrained(tiny_run / "pipeline", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error of a machine without a GPU")
def test_balanced_needs_a_gpu(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="'balanced' shares the models among GPUs, and there is none: use 'cpu'"):
        PurrceptionPipeline.from_pretrained(tiny_run / "pipeline", device_map="balanced")


def test_options_of_the_hub_reach_its_client(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_run)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    options = {"revision": "v1", "token": "t", "cache_dir": "c", "local_files_only": True, "force_download": True}
    PurrceptionPipeline.from_pretrained("hub:owner/name", subfolder="pipeline", **options)
    patterns = asked.pop("allow_patterns")
    assert asked == options | {"name": "owner/name"}
    assert all(pattern.startswith("pipeline/") for pattern in patterns)


def test_saving_takes_diffusers_options(pipe: PurrceptionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, safe_serialization=True, variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 1
    assert variants_in(tmp_path / "vqvae") == {"fp16"}
    assert same(PurrceptionPipeline.from_pretrained(tmp_path, variant="fp16")(3), pipe(3))
    for options, message in (
        ({"safe_serialization": False}, "written as safetensors alone"),
        ({"push_to_hub": True}, "add repo_id='OWNER/NAME'"),
        ({"use_flashpack": True}, "unknown option of save_pretrained 'use_flashpack'"),
        ({"repo_id": "owner/name"}, "unknown option of save_pretrained 'repo_id'"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.save_pretrained(tmp_path, **options)  # type: ignore[arg-type]


def test_uploading_takes_diffusers_options(pipe: PurrceptionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, name: str, **options: Any) -> str:
            calls.append(("create", options | {"name": name}))
            return f"https://hub/{name}"

        def upload_folder(self, folder_path: Path, **options: Any) -> None:
            assert variants_in(folder_path / "transformer") == {"bf16"}
            calls.append(("upload", options))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    options = {"commit_message": "m", "create_pr": True, "revision": "r"}
    address = pipe.push_to_hub("owner/name", private=True, token="t", variant="bf16", **options)
    assert address == "https://hub/owner/name"
    assert dict(calls) == {
        "token": {"token": "t"},
        "create": {"name": "owner/name", "private": True, "exist_ok": True},
        "upload": {"repo_id": "owner/name", **options},
    }
    with pytest.raises(InputError, match="unknown option of push_to_hub 'tags'"):
        pipe.push_to_hub("owner/name", tags=["x"])


def test_saving_can_upload_too(pipe: PurrceptionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("purrception.generation.pipeline.upload", lambda *given, **options: sent.append(given[1:]))
    pipe.save_pretrained(tmp_path, push_to_hub=True, repo_id="owner/name", private=True)
    assert sent == [("owner/name", True, None)]


def test_models_can_be_offloaded_and_attention_sliced(pipe: PurrceptionPipeline) -> None:
    plain = pipe([3, 7])
    pipe.enable_attention_slicing()  # attention is PyTorch's own: there is nothing to slice
    assert same(pipe([3, 7]), plain)
    pipe.enable_model_cpu_offload(device="cpu")
    assert len(pipe._all_hooks) == 2
    for _ in range(2):
        assert same(pipe([3, 7]), plain)


def test_gradient_checkpointing_recomputes_the_blocks(network: PurrceptionTransformer) -> None:
    passes: list[None] = []
    network.backbone.blocks[0].register_forward_pre_hook(lambda *_: passes.append(None))
    given = torch.randn(2, 3, 4, 6), torch.rand(2), torch.tensor([0, 3])

    def gradient() -> Tensor:
        network.zero_grad()
        network(*given).square().sum().backward()
        weight = network.backbone.blocks[0].attn.qkv.weight
        assert weight.grad is not None
        return weight.grad.clone()

    kept = gradient()
    network.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), kept)
    assert len(passes) == 3
    network.disable_gradient_checkpointing()
    gradient()
    assert len(passes) == 4


def test_an_adapter_is_trained_saved_loaded_and_fused(tiny_run: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    load = PurrceptionPipeline.from_pretrained
    pipe = load(tiny_run / "pipeline")
    plain = pipe([3, 7])
    network = pipe.transformer
    network.requires_grad_(False)
    network.add_adapter(peft.LoraConfig(r=2, target_modules=["qkv", "proj"], init_lora_weights="gaussian"))
    assert same(pipe([3, 7]), plain)  # a new adapter changes nothing
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * len(network.backbone.blocks)
    optimizer = torch.optim.SGD(trained, lr=5.0)
    for _ in range(3):
        features = network(torch.randn(2, 3, 4, 4), torch.rand(2), torch.tensor([0, 3]))
        features.square().mean().backward()
        optimizer.step()
    adapted = pipe([3, 7])
    assert not torch.equal(adapted.entropy, plain.entropy)
    network.save_lora_adapter(tmp_path / "adapter")

    other = load(tiny_run / "pipeline")
    with pytest.raises(InputError, match="no adapter at owner/name"):
        other.transformer.load_lora_adapter("owner/name")
    other.transformer.load_lora_adapter(tmp_path / "adapter")
    assert same(other([3, 7]), adapted)
    other.transformer.disable_lora()
    assert same(other([3, 7]), plain)
    other.transformer.enable_lora()
    other.transformer.fuse_lora()
    other.transformer.unload_lora()
    torch.testing.assert_close(other([3, 7]).entropy, adapted.entropy)
    other.save_pretrained(tmp_path / "fused")
    torch.testing.assert_close(load(tmp_path / "fused")([3, 7]).entropy, adapted.entropy)


def test_a_notebook_shows_images_with_their_entropy(pipe: PurrceptionPipeline) -> None:
    out = pipe([3, 7, 1, 0])
    with Image.open(io.BytesIO(out._repr_png_() or b"")) as picture:
        shown = np.asarray(picture)
    side = 2 * 64 + 2
    assert shown.shape == (side, 2 * side + 16, 3)
    first = np.asarray(out.images[0]).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(shown[:64, :64, 0], first)
    brightest = np.unravel_index(int(out.entropy[0].argmax()), (4, 4))
    entropy = shown[:64, side + 16 : side + 80].astype(int).sum(-1)[8::16, 8::16]
    assert np.unravel_index(entropy.argmax(), (4, 4)) == brightest
    assert replace(out, entropy=None)._repr_png_() is not None
    assert pipe(3, output_type="pt")._repr_png_() is None
