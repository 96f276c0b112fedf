"""The pipeline, from a real (tiny) run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel

from purrception import PurrceptionPipeline, PurrceptionTransformer
from purrception.errors import InputError
from purrception.experiment import load_pipeline
from purrception.flow import ObjectiveConfig, build_objective
from purrception.sampling import KeyedDraws
from purrception.tokenizers import UnnormalisedVQModel, VQConfig


@pytest.fixture(scope="module")
def pipeline(tiny_run: Path) -> PurrceptionPipeline:
    return PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")


def test_output_is_what_the_contract_says(pipeline: PurrceptionPipeline) -> None:
    out = pipeline(
        class_labels=[3, 3, 7], num_inference_steps=4, solver="euler", temperature=0.9, guidance_scale=1.5,
        seed=0,
    )  # fmt: skip
    assert [image.size for image in out.images] == [(16, 16)] * 3
    assert out.indices.shape == out.entropy.shape == (3, 4, 4)
    assert out.indices.dtype == torch.int64
    assert out.entropy.dtype == torch.float32
    assert 0 <= out.entropy.min() <= out.entropy.max() <= np.log(16) + 1e-5
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
    names = ["model_index.json", "sampling.yaml", "transformer", "vqvae"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    files = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [".json"] * 3 + [".safetensors"] * 2 + [".yaml"]
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
    assert pipeline.labels_of(["3", 7, "0"]) == [3, 7, 0]


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
    with pytest.raises(InputError, match="was trained on codes of the tokenizer"):
        PurrceptionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["transformer", "vqvae"])
def test_truncated_weights_are_refused(tiny_run: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_run / "pipeline", folder)
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot load"):
        PurrceptionPipeline.from_pretrained(folder)


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
