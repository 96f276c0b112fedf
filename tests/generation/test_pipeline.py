"""The pipeline, from a real (tiny) run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file

from purrception import PurrceptionPipeline, PurrceptionScheduler, PurrceptionTransformer
from purrception.experiment.saved_run import load_pipeline
from purrception.flow import ObjectiveConfig, SamplingConfig, build_objective
from purrception.generation.sampler import KeyedDraws
from purrception.storage import pipeline_folder, write_digests, write_file
from purrception.storage.pipeline_folder import SAMPLING, SCHEDULER, write_scheduler
from purrception.tokenizers import UnnormalisedVQModel, VQConfig, VQTokenizer, open_tokenizer
from purrception.utils.errors import InputError


@pytest.fixture(scope="module")
def pipeline(tiny_run: Path) -> PurrceptionPipeline:
    return PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")


def test_output_is_what_the_contract_says(pipeline: PurrceptionPipeline) -> None:
    out = pipeline(
        class_labels=[3, 3, 7], num_inference_steps=4, solver="euler", temperature=0.9, guidance_scale=1.5, seed=0
    )
    assert [image.size for image in out.images] == [(16, 16)] * 3
    assert out.indices.shape == out.entropy.shape == (3, 4, 4)
    assert out.indices.dtype == torch.int64
    assert out.entropy.dtype == torch.float32
    assert 0 <= out.entropy.min() <= out.entropy.max() <= np.log(16) + 1e-5
    assert out.path_entropy.shape == out.entropy.shape
    assert 0 < out.path_entropy.min() <= out.path_entropy.max() <= np.log(16) + 1e-5
    assert out.nfe == 8


def test_nfe_counts_passes_of_the_network(pipeline: PurrceptionPipeline) -> None:
    calls = []
    handle = pipeline.transformer.backbone.register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    for guidance, nfe in ((1.0, 5), (0.0, 5), (2.0, 10)):
        calls.clear()
        out = pipeline(num_images=3, num_inference_steps=5, guidance_scale=guidance)
        assert out.nfe == nfe == sum(calls) / 3
    handle.remove()


def test_a_looser_tolerance_costs_fewer_evaluations(pipeline: PurrceptionPipeline) -> None:
    loose, tight = (pipeline(num_images=2, solver="dopri5", tolerance=tolerance).nfe for tolerance in (1e-1, 1e-3))
    assert 0 < loose < tight
    with pytest.raises(InputError, match="positive number"):
        pipeline(solver="dopri5", tolerance=0.0)


def test_an_image_does_not_depend_on_the_batch_size(pipeline: PurrceptionPipeline) -> None:
    labels = [number % 10 for number in range(13)]
    whole = pipeline(class_labels=labels, num_inference_steps=5, seed=4, batch_size=64)
    for batch_size in (1, 5):
        parts = pipeline(class_labels=labels, num_inference_steps=5, seed=4, batch_size=batch_size)
        assert torch.equal(whole.indices, parts.indices)
        for a, b in zip(whole.images, parts.images, strict=True):
            assert np.array_equal(np.asarray(a), np.asarray(b))
    other = pipeline(class_labels=labels, num_inference_steps=5, seed=5)
    assert not torch.equal(whole.indices, other.indices)


def test_noise_is_the_same_whichever_images_are_drawn_beside_it(pipeline: PurrceptionPipeline) -> None:
    together = KeyedDraws(3, range(10), pipeline.transformer)
    alone = KeyedDraws(3, [7], pipeline.transformer)
    for step in (0, 1, 5):
        assert torch.equal(together.normal(step)[7:8], alone.normal(step))
        assert torch.equal(together.uniform(step)[7:8], alone.uniform(step))
    every = [*together.normal(0), *together.normal(1), *together.uniform(0)]
    assert len({sample.numpy().tobytes() for sample in every}) == 30


def test_save_and_load_give_the_same_images(pipeline: PurrceptionPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    names = ["SHA256SUMS", "model_index.json", "scheduler", "transformer", "vqvae"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    files = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == ["", *[".json"] * 4, *[".safetensors"] * 2]
    loaded = PurrceptionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.transformer, PurrceptionTransformer)
    assert isinstance(loaded.vqvae, VQModel)
    a, b = (pipe(num_images=4, num_inference_steps=3) for pipe in (pipeline, loaded))
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.entropy, b.entropy)


def test_a_pipeline_keeps_a_tokenizer_without_normalisation(pipeline: PurrceptionPipeline, tmp_path: Path) -> None:
    model = VQConfig(codebook_size=len(pipeline.tokenizer.codebook), channels=(8, 8), normalisation="none")
    whole = PurrceptionPipeline(pipeline.transformer, model.build(1, 16))
    whole.save_pretrained(tmp_path)
    loaded = PurrceptionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.vqvae, UnnormalisedVQModel)
    assert loaded.tokenizer.fingerprint == whole.tokenizer.fingerprint


def test_class_names_are_labels_too(pipeline: PurrceptionPipeline) -> None:
    assert pipeline.resolve_labels(["3", 7, "0"], None) == [3, 7, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [10]}, "class labels are 0 to 9; given 10"),
        ({"class_labels": [-1]}, "class labels are 0 to 9; given -1"),
        ({"class_labels": ["cat"]}, "unknown class 'cat'"),
        ({"class_labels": []}, "at least one image"),
        ({"class_labels": [1], "num_images": 2}, "1 class labels but num_images 2"),
        ({"num_inference_steps": 0}, "at least 1 step"),
        ({"solver": "eulre"}, "did you mean 'euler'"),
        ({"temperature": 0.0}, "positive number"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_say_what_is_accepted(
    pipeline: PurrceptionPipeline, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline(**arguments)


def test_parts_that_do_not_belong_together_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_run / "pipeline", folder)
    vq = VQModel.from_pretrained(folder / "vqvae")
    with torch.no_grad():
        vq.quantize.embedding.weight.mul_(1.1)
    vq.save_pretrained(folder / "vqvae")
    with pytest.raises(InputError, match="is damaged or altered"):
        PurrceptionPipeline.from_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="was trained on codes of the tokenizer"):
        PurrceptionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["transformer", "vqvae"])
def test_truncated_weights_are_refused(tiny_run: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_run / "pipeline", folder)
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot load"):
        PurrceptionPipeline.from_pretrained(folder, verify=False)


def test_an_unfinished_run_samples_from_its_latest_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    finished = load_pipeline(run)(num_images=3, num_inference_steps=3)
    shutil.rmtree(run / "pipeline")
    unfinished = load_pipeline(run)(num_images=3, num_inference_steps=3)
    assert torch.equal(finished.indices, unfinished.indices)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint yet"):
        load_pipeline(run)


def test_a_backbone_in_bfloat16_leaves_the_flow_in_float32(network: PurrceptionTransformer) -> None:
    given = torch.randn(2, 3, 4, 6), torch.full((2,), 0.4), torch.tensor([0, 3])
    exact = network(*given)
    network.half_backbone = True
    features = network(*given)
    assert features.dtype == torch.bfloat16
    assert 0 < (features - exact).norm() < 0.05 * exact.norm()
    objective = build_objective(ObjectiveConfig())
    prediction = objective.predict(network, given[0], 0.4, given[2])
    assert prediction.mean.dtype == torch.float32
    assert not torch.equal(prediction.mean, prediction.mean.bfloat16().float())


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    """A pipeline to be damaged."""
    return Path(shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline"))


FILES = [
    "model_index.json",
    SCHEDULER,
    "transformer/config.json",
    "vqvae/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vqvae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_noticed(copied: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-5] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged or altered"):
        PurrceptionPipeline.from_pretrained(copied)
    if name.startswith("transformer/diff"):  # the last number of a weight: it can be told by nothing else
        assert PurrceptionPipeline.from_pretrained(copied, verify=False)
        monkeypatch.setenv("PURRCEPTION_SKIP_DIGESTS", "1")
        assert PurrceptionPipeline.from_pretrained(copied)


def test_weights_that_are_not_finite_are_not_saved(copied: Path, tmp_path: Path) -> None:
    pipeline = PurrceptionPipeline.from_pretrained(copied)
    next(pipeline.transformer.parameters()).data.view(-1)[0] = 1e38
    torch.nn.Module.to(pipeline.transformer, torch.float16)
    with pytest.raises(InputError, match=r"in which it is to be saved, holds values that are NaN or infinite"):
        pipeline.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_s_flipped_bit_is_noticed_beside_files_of_others(tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run / "tokenizer", tmp_path / "tokenizer"))
    (folder / "metrics.jsonl").write_text("")
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert listed == ["config.json", "diffusion_pytorch_model.safetensors"]
    VQTokenizer.load(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"safetensors is damaged or altered"):
        VQTokenizer.load(folder)
    VQTokenizer.load(folder, verify=False)
    (folder / "SHA256SUMS").unlink()  # of an earlier version
    VQTokenizer.load(folder)


def test_cards_may_be_edited_and_variants_share_an_index(pipeline: PurrceptionPipeline, tmp_path: Path) -> None:
    pipeline.companions |= {"README.md": b"a card", "samples.png": b"a grid"}
    pipeline.save_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path, variant="bf16")
    assert (tmp_path / "SHA256SUMS").read_text().count(".safetensors") == 4
    (tmp_path / "README.md").write_text("a better card")
    for variant in (None, "bf16"):
        assert PurrceptionPipeline.from_pretrained(tmp_path, variant=variant).companions["README.md"]
    shutil.rmtree(tmp_path / "transformer")
    with pytest.raises(InputError, match="transformer"):
        PurrceptionPipeline.from_pretrained(tmp_path)


def of_steps(steps: int) -> str:
    return PurrceptionScheduler(num_inference_steps=steps).to_json_string()


def as_saved_before_schedulers(folder: Path, settings: str = "steps: 7\n") -> None:
    """A pipeline's folder as earlier versions wrote it."""
    shutil.rmtree(folder / "scheduler")
    write_file(folder / SAMPLING, settings)
    change(folder / "model_index.json", scheduler="gone")
    write_digests(folder)


def test_settings_rewritten_beside_the_weights_stay_verified(copied: Path) -> None:
    write_scheduler(of_steps(7), copied)
    assert PurrceptionPipeline.from_pretrained(copied).scheduler.config.num_inference_steps == 7
    write_file(copied / SCHEDULER, of_steps(8))
    with pytest.raises(InputError, match=r"scheduler_config\.json is damaged or altered"):
        PurrceptionPipeline.from_pretrained(copied)


def test_a_pipeline_of_before_schedulers_loads_and_gets_one(copied: Path, tmp_path: Path) -> None:
    as_saved_before_schedulers(copied)
    old = PurrceptionPipeline.from_pretrained(copied)
    assert old(num_images=1).nfe == 7
    old.save_pretrained(tmp_path / "new")
    write_scheduler(of_steps(9), copied)
    for folder, steps in ((tmp_path / "new", 7), (copied, 9)):
        assert not (folder / SAMPLING).exists()
        assert PurrceptionPipeline.from_pretrained(folder).scheduler.config.num_inference_steps == steps
    old.save_pretrained(copied)
    assert PurrceptionPipeline.from_pretrained(copied).scheduler.config.num_inference_steps == 7
    as_saved_before_schedulers(copied)
    (copied / SAMPLING).unlink()
    assert PurrceptionPipeline.from_pretrained(copied).default_settings() == SamplingConfig()


def test_a_kill_while_settings_are_rewritten_leaves_a_pipeline_that_loads(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, content: str) -> None:
        write_file(path, content)
        raise KeyboardInterrupt

    as_saved_before_schedulers(copied)
    with monkeypatch.context() as killing:
        killing.setattr(pipeline_folder, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            write_scheduler(of_steps(8), copied)
    assert PurrceptionPipeline.from_pretrained(copied).scheduler.config.num_inference_steps == 8
    write_scheduler(of_steps(9), copied)
    assert PurrceptionPipeline.from_pretrained(copied).scheduler.config.num_inference_steps == 9
    listed = (copied / "SHA256SUMS").read_text()
    assert SCHEDULER in listed
    assert SAMPLING not in listed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "eulr"}, "did you mean 'euler'"),
        ({"temperature": "hot"}, "temperature"),
        ({"num_inference_steps": "3"}, "num_inference_steps"),
        ({"num_inference_steps": 10**9}, "num_inference_steps is at most"),
        ({"guidance_interval": [0.5]}, "guidance_interval"),
        ({"beta_start": 0.1}, "unknown key in .*scheduler_config.json: 'beta_start'"),
        ({"_class_name": "DDIMScheduler"}, "of a 'DDIMScheduler', expected PurrceptionScheduler"),
    ],
)
def test_a_scheduler_s_settings_are_read_strictly(copied: Path, changes: dict[str, object], message: str) -> None:
    change(copied / SCHEDULER, **changes)
    with pytest.raises(InputError, match=message):
        PurrceptionPipeline.from_pretrained(copied)


def test_no_saved_configuration_says_where_it_was_loaded_from(copied: Path, tmp_path: Path) -> None:
    PurrceptionPipeline.from_pretrained(copied).save_pretrained(tmp_path / "again")
    VQTokenizer.load(copied / "vqvae").save(tmp_path / "again" / "tokenizer")
    for file in (tmp_path / "again").rglob("*.json"):
        assert "_name_or_path" not in file.read_text()
        assert str(tmp_path) not in file.read_text()


def change(file: Path, **changes: object) -> None:
    """Other values in a JSON file of a pipeline; the index of digests goes, as a forger would have it."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value != "gone"}))
    for folder in file.parents[:2]:
        (folder / "SHA256SUMS").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "of a 'StableDiffusionPipeline', expected Purr"),
        ({"_class_name": ["evil", "Pipeline"]}, "expected PurrceptionPipeline"),
        ({"transformer": ["evil", "PurrceptionTransformer"]}, "its transformer is a evil.PurrceptionTransformer"),
        ({"vqvae": ["evil", "VQModel"]}, "its vqvae is a evil.VQModel; accepted are diffusers.VQModel or"),
        ({"vqvae": ["diffusers", "AutoencoderKL"]}, "accepted are"),
        ({"evil": ["evil", "Evil"]}, "unknown key in .*model_index.json: 'evil'"),
        ({"../evil": ["evil", "Evil"]}, "unknown key"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "its scheduler is a diffusers.DDIMScheduler"),
        ({"transformer": "gone"}, "transformer"),
        ({"transformer": [None, None]}, "transformer"),
        ({"class_names": "abc"}, "class_names"),
        ({"class_names": [1, 2]}, "class_names"),
        ({"class_names": {"a": 1}}, "class_names"),
        ({"objective": 3}, "objective"),
        ({"objective": "purr"}, "unknown objective 'purr'"),
        ({"tokenizer_hash": None}, "tokenizer_hash"),
    ],
)
def test_an_index_names_nothing_but_our_own(
    copied: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    (copied.parent / "evil.py").write_text("raise SystemExit('imported')")
    (copied / "transformer" / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(copied.parent))
    change(copied / "model_index.json", **changes)
    with pytest.raises(InputError, match=message) as caught:
        PurrceptionPipeline.from_pretrained(copied)
    assert "\n" not in str(caught.value)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"depth": 1_000_000}, "network.depth is at most 1024; given 1000000"),
        ("transformer", {"depth": 1000}, "asks for .* numbers, and its weight files have"),
        ("transformer", {"width": 65536}, "asks for .* numbers, and its weight files have"),
        ("transformer", {"depth": "4"}, "depth"),
        ("transformer", {"depth": None}, "depth"),
        ("transformer", {"depth": 2.5}, "depth"),
        ("transformer", {"depth": 3}, "do not fit"),
        ("transformer", {"heads": 0}, "at least 1"),
        ("transformer", {"patch_size": 0}, "at least 1"),
        ("transformer", {"patch_size": 3}, "does not divide the grid"),
        ("transformer", {"grid": [4]}, "grid"),
        ("transformer", {"grid": []}, "grid"),
        ("transformer", {"grid": [4, "4"]}, "grid"),
        ("transformer", {"grid": [0, 0]}, "grid is at most 4096; given 0"),
        ("transformer", {"grid": [4096, 4096]}, "asks for .* numbers"),
        ("transformer", {"grid": "gone"}, "grid"),
        ("transformer", {"codebook_size": 2**40}, "codebook_size is at most"),
        ("transformer", {"codebook_size": -1}, "codebook_size is at most"),
        ("transformer", {"num_classes": -5}, "num_classes is at most"),
        ("transformer", {"mlp_ratio": float("inf")}, "mlp_ratio is a finite number"),
        ("transformer", {"time_scale": float("nan")}, "time_scale is a finite number"),
        ("transformer", {"head_kind": "none"}, "unknown head 'none'"),
        ("transformer", {"norm": "batch"}, "norm"),
        ("transformer", {"extra": 1}, "unknown key in .*transformer/config.json: 'extra'"),
        ("vqvae", {"_class_name": "AutoencoderKL"}, "it is a AutoencoderKL, expected VQModel or"),
        ("vqvae", {"_class_name": ["VQModel"]}, "expected VQModel or"),
        ("vqvae", {"block_out_channels": [8] * 1000}, "block_out_channels"),
        ("vqvae", {"block_out_channels": []}, "block_out_channels"),
        ("vqvae", {"block_out_channels": [8, 8, 2**30]}, "block_out_channels"),
        ("vqvae", {"block_out_channels": [8, 8, 16384]}, "asks for .* numbers|divisible"),
        ("vqvae", {"layers_per_block": 10**9}, "layers_per_block"),
        ("vqvae", {"layers_per_block": "2"}, "layers_per_block"),
        ("vqvae", {"norm_num_groups": 0}, "norm_num_groups"),
        ("vqvae", {"num_vq_embeddings": 10**12}, "num_vq_embeddings"),
        ("vqvae", {"num_vq_embeddings": 2**20}, "asks for .* numbers"),
        ("vqvae", {"down_block_types": ["../x"] * 3}, "down_block_types"),
        ("vqvae", {"down_block_types": None}, "down_block_types"),
        ("vqvae", {"act_fn": "none"}, "act_fn|activation|none"),
        ("vqvae", {"scaling_factor": float("nan")}, "scaling_factor"),
        ("vqvae", {"input_range": [1, 0]}, "goes from black to a larger white"),
    ],
)
def test_a_configuration_that_can_be_none_is_one_line_before_anything_is_built(
    copied: Path, part: str, changes: dict[str, object], message: str
) -> None:
    change(copied / part / "config.json", **changes)
    with pytest.raises(InputError, match=message) as caught:
        PurrceptionPipeline.from_pretrained(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["transformer", "vqvae"])
@pytest.mark.parametrize("damage", ["shape", "missing", "more", "no file", "elsewhere"])
def test_weights_that_do_not_fit_are_one_line(copied: Path, part: str, damage: str) -> None:
    file = copied / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    if damage == "shape":
        tensors[name] = torch.zeros(3, 3)
    elif damage == "missing":
        del tensors[name]
    else:
        tensors["more"] = torch.zeros(3)
    save_file(tensors, file)
    if damage in ("no file", "elsewhere"):
        file.unlink()
    if damage == "elsewhere":
        index = {"metadata": {}, "weight_map": {name: "../../other.safetensors"}}
        (file.parent / f"{file.name}.index.json").write_text(json.dumps(index))
    change(copied / "model_index.json")
    with pytest.raises(InputError, match=part if damage != "elsewhere" else "plain file names") as caught:
        PurrceptionPipeline.from_pretrained(copied)
    assert "\n" not in str(caught.value)


def test_codes_whose_length_is_no_number_are_refused(tiny_run: Path, copied: Path, tmp_path: Path) -> None:
    vq = VQTokenizer.load(tiny_run / "tokenizer").vq
    vq.quantize.embedding.weight[3, 0] = 1e38
    with pytest.raises(InputError, match="squared length overflows float32, 1 of 16"):
        VQTokenizer(vq)
    vq.save_pretrained(tmp_path / "made")
    with pytest.raises(InputError, match=r"cannot load the tokenizer in .* overflows float32"):
        VQTokenizer.load(tmp_path / "made")
    file = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["head.codebook"][0] = 1e38
    save_file(tensors, file)
    change(copied / "model_index.json")
    with pytest.raises(InputError, match=r"the transformer in .* overflows float32"):
        PurrceptionPipeline.from_pretrained(copied)


def test_a_link_out_of_the_folder_does_not_travel_with_the_weights(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    (copied / "README.md").symlink_to(tmp_path / "key")
    with pytest.raises(InputError, match=r"README\.md is a link out of its folder"):
        PurrceptionPipeline.from_pretrained(copied)


def test_an_absent_folder_is_never_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(InputError, match=r"no pipeline in owner/name: .* hub:OWNER/NAME"):
        PurrceptionPipeline.from_pretrained("owner/name")
    with pytest.raises(InputError, match=r"no tokenizer at tokenizers/vq-f8: .* hub:owner/name"):
        open_tokenizer("tokenizers/vq-f8")
    for name in ("hub:name", "hub:../x", "hub:owner/../name", ""):
        with pytest.raises(InputError):
            PurrceptionPipeline.from_pretrained(name)
    for name in ("hub:name", "hub:owner/name/../../x", "hub:owner/.."):
        with pytest.raises(InputError):
            open_tokenizer(name)
