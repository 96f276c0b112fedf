"""The same figures on a GPU as on a processor.

``GPU_TESTS=cpu`` runs these tests where there is none, on the processor twice, to see that they work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from purrception.bench.reference import reference_loss
from purrception.flow import (
    OBJECTIVES,
    ObjectiveConfig,
    PredictionOptions,
    SamplingConfig,
    TrainingBatch,
    Truncation,
    build_objective,
)
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import KeyedDraws, sample_codes
from purrception.models import Kernel, PurrceptionTransformer
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.training.batches import to_device
from purrception.utils.devices import downloads
from purrception.utils.keyed_rng import Stream, keyed_normal, keyed_uniform
from tests.conftest import run_cli
from tests.training.test_loop import everything, make_trainer

pytestmark = pytest.mark.gpu

KINDS = ["linear", "factored", "geometric"]
CLOSE = {"float32": 2e-4, "bfloat16": 3e-2}
"""Largest distance of two tensors, in lengths of the one from the processor."""


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    """A GPU, whose convolutions are exact: by default they round float32 to ten bits (TF32)."""
    if not torch.cuda.is_available():
        if os.environ.get("GPU_TESTS") != "cpu":
            pytest.skip("no CUDA device")
        yield torch.device("cpu")
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield torch.device("cuda", 0)


def build(objective: str = "purrception", head: str = "linear", evidence: bool = False) -> PurrceptionTransformer:
    """A network with every weight random, on the processor."""
    torch.manual_seed(0)
    family = build_objective(ObjectiveConfig(name=objective))
    made = PurrceptionTransformer(
        grid=(8, 8),
        codebook_size=300,
        codebook_dim=4,
        num_classes=5,
        depth=2,
        width=128,
        heads=4,
        input_channels=4 + family.extra_channels,
        head_rank=32,
        evidence=evidence,
        head_kind="regression" if family.head_family == "regression" else head,
    )
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if name.startswith("head") else 0.05)
    made.set_codebook(torch.randn(300, 4))
    return made


def make_batch(images: int = 4) -> TrainingBatch:
    """Random codes and all that goes with them, on the processor."""
    return TrainingBatch(
        indices=torch.randint(300, (images, 8, 8)),
        labels=torch.randint(6, (images,)),
        noise=torch.randn(images, 4, 8, 8),
        time=torch.rand(images) * 0.95,
    )


def on(network: PurrceptionTransformer, device: torch.device) -> PurrceptionTransformer:
    """A copy of a network elsewhere."""
    copy = PurrceptionTransformer.from_config(network.config)
    copy.load_state_dict(network.state_dict())
    return copy.to(device)


def far(found: Tensor, expected: Tensor) -> float:
    """Distance in lengths of what was expected; not a number is infinitely far."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    distance = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    return distance if distance == distance else float("inf")


def losses_and_gradients(
    network: PurrceptionTransformer, batch: TrainingBatch, objective: str, precision: str
) -> tuple[Tensor, list[Tensor]]:
    """As a training step finds them."""
    with torch.autocast(batch.noise.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        losses = build_objective(ObjectiveConfig(name=objective)).loss(network, batch)
    losses.total.backward()
    return losses.total, [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("precision", list(CLOSE))
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_losses_and_gradients_are_the_processors(device: torch.device, objective: str, precision: str) -> None:
    network, batch = build(objective, evidence=objective == "purrception"), make_batch()
    loss, gradients = losses_and_gradients(network, batch, objective, "float32")
    there, found = losses_and_gradients(on(network, device), to_device(batch, device), objective, precision)
    assert far(there, loss) < CLOSE[precision]
    assert len(found) == len(gradients)
    length = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    for one, other in zip(found, gradients, strict=True):
        assert far(one, other) < CLOSE[precision] or (one.cpu() - other).norm() < 1e-2 * CLOSE[precision] * length


@pytest.mark.parametrize("precision", list(CLOSE))
@pytest.mark.parametrize("kind", KINDS)
def test_posteriors_are_the_processors(device: torch.device, kind: str, precision: str) -> None:
    network, batch = build(head=kind, evidence=True).eval(), make_batch()
    objective = build_objective(ObjectiveConfig())
    for options in (
        PredictionOptions(temperature=0.8, top=3),
        PredictionOptions(truncation=Truncation(top_k=20, top_p=0.9), uniforms=torch.rand(4, 8, 8)),
    ):
        with torch.no_grad():
            expected = objective.predict(network, batch.noise, 0.4, batch.labels, options).posterior
            moved = options if options.uniforms is None else replace(options, uniforms=options.uniforms.to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                found = objective.predict(
                    on(network, device).eval(), batch.noise.to(device), 0.4, batch.labels.to(device), moved
                ).posterior
        assert expected is not None
        assert found is not None
        assert found.mean.dtype == torch.float32
        assert far(found.mean, expected.mean) < 5 * CLOSE[precision]
        assert far(found.entropy, expected.entropy) < 5 * CLOSE[precision]
        assert (found.codes.cpu() == expected.codes).float().mean() > (0.99 if precision == "float32" else 0.9)


def test_draws_are_the_processors(device: torch.device) -> None:
    numbers = torch.arange(2000)
    uniform, normal = (
        [draw(7, Stream.TRAINING, where, (65,), part=1).cpu() for where in (numbers, numbers.to(device))]
        for draw in (keyed_uniform, keyed_normal)
    )
    assert torch.equal(*uniform)
    assert (normal[0] != normal[1]).sum() <= 3  # rounded apart where a float64 differs in its last bit
    torch.testing.assert_close(*normal, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_samples_are_the_processors(device: torch.device, objective: str) -> None:
    network, family = build(objective).eval(), build_objective(ObjectiveConfig(name=objective))
    settings = family.supported(SamplingConfig(num_inference_steps=6, guidance_scale=1.5, temperature=0.9))
    labels = torch.arange(8) % 5
    here = sample_codes(network, family, labels, settings, 3, 4)
    there = sample_codes(on(network, device).eval(), family, labels, settings, 3, 4)
    assert here.nfe == there.nfe
    assert (here.indices == there.indices).float().mean() > 0.98


@pytest.mark.parametrize("objective", ["purrception", "dfm"])
@pytest.mark.parametrize("half", [False, True])
def test_a_recorded_batch_is_the_same_batch(device: torch.device, objective: str, half: bool) -> None:
    network, family = on(build(objective), device).eval(), build_objective(ObjectiveConfig(name=objective))
    network.half_backbone = half
    settings = family.supported(SamplingConfig(num_inference_steps=4, guidance_scale=1.5, solver="stochastic"))
    labels = torch.arange(14) % 5
    plain, replayed = (
        sample_codes(network, family, labels, settings, 3, 4, record=record) for record in (False, True)
    )
    assert torch.equal(plain.indices, replayed.indices)


@pytest.mark.parametrize("precision", list(CLOSE))
def test_a_compiled_step_learns_the_same(device: torch.device, precision: str) -> None:
    network, batch = on(build(evidence=True), device), to_device(make_batch(), device)
    compiled = on(network, device)
    for each in (network, compiled):
        each.use_kernel("torch")  # whose chunks are compiled too
    compiled.compile_parts()
    expected, gradients = losses_and_gradients(network, batch, "purrception", precision)
    loss, found = losses_and_gradients(compiled, batch, "purrception", precision)
    assert far(loss, expected) < CLOSE[precision]
    together = [torch.cat([gradient.flatten() for gradient in each]) for each in (found, gradients)]
    assert far(*together) < CLOSE[precision]


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_the_loss_is_the_plain_one_at_full_size(device: torch.device, kernel: Kernel) -> None:
    """K = 16384, where chunks are many; on a processor of fewer sites."""
    side = 32 if device.type == "cuda" else 4
    torch.manual_seed(0)
    network = PurrceptionTransformer(
        grid=(side, side), codebook_size=16384, codebook_dim=4, num_classes=5, depth=1
    )
    torch.nn.init.normal_(network.head.linear.weight, std=0.05)
    network.to(device).use_kernel(kernel)
    features = torch.randn(4, side // 2, side // 2, 128, device=device, requires_grad=True)
    targets = torch.randint(16384, (4, side, side), device=device)
    found = []
    for loss in (
        network.head.loss(features, targets, 1e-4).total,
        reference_loss(network.head, features, targets, 1e-4),
    ):
        found.append((loss, *torch.autograd.grad(loss, (features, network.head.linear.weight))))
    for one, other in zip(*found, strict=True):
        assert far(one, other) < 1e-4


@pytest.mark.parametrize("precision", list(CLOSE))
@pytest.mark.parametrize("kind", KINDS)
def test_tritons_kernels_are_the_chunks(device: torch.device, kind: str, precision: str) -> None:
    if device.type != "cuda":
        pytest.skip("tests/models/test_fused.py has Triton's interpreter do it")
    network, batch = on(build(head=kind, evidence=True), device), to_device(make_batch(), device)
    other = on(network, device)
    network.use_kernel("torch")
    other.use_kernel("triton")
    expected, gradients = losses_and_gradients(network, batch, "purrception", precision)
    found, others = losses_and_gradients(other, batch, "purrception", precision)
    assert far(found, expected) < CLOSE[precision]
    together = [torch.cat([gradient.flatten() for gradient in each]) for each in (others, gradients)]
    assert far(*together) < CLOSE[precision]
    objective, options = build_objective(ObjectiveConfig()), PredictionOptions(temperature=0.8)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        means = [
            objective.predict(each.eval(), batch.noise, 0.4, batch.labels, options) for each in (other, network)
        ]
    assert far(means[0].mean, means[1].mean) < 5 * CLOSE[precision]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_learns_and_goes_on(tiny_run: Path, tmp_path: Path, device: torch.device, precision: str) -> None:
    options = {"device": str(device), "precision": precision, "steps": 40, "checkpoint_every": 20}
    whole = make_trainer(tiny_run, tmp_path / "whole", **options)
    whole.fit()
    make_trainer(tiny_run, tmp_path / "halves", **options).fit(until=20)
    second = make_trainer(tiny_run, tmp_path / "halves", **options)
    checkpoint = second.checkpoints.latest()
    assert checkpoint is not None
    second.restore(checkpoint)
    second.fit()
    assert second.state.updates == 40
    a, b = everything(whole), everything(second)
    learned = [name for name in a if name.startswith("ema.")]
    joined = [torch.cat([values[name].flatten().float() for name in learned]) for values in (b, a)]
    assert far(*joined) < (1e-5 if device.type == "cpu" else 1e-2)  # sums in another order at each run
    assert whole.state.validation_loss is not None
    assert whole.state.validation_loss < 2.7  # ln 16 = 2.77 before the first step


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """An error where the processor would wait for the GPU, for a number or a copy from ordinary memory."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_waits_for_nothing(tiny_run: Path, tmp_path: Path, device: torch.device) -> None:
    trainer = make_trainer(tiny_run, tmp_path, device=str(device), accumulation=2)
    trainer._step()
    with no_waiting(device):
        for _ in range(3):
            trainer._step()
    assert trainer.state.step == 4


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_sampling_waits_for_nothing(device: torch.device, objective: str) -> None:
    """All batches are asked for before the first number is."""
    network, family = on(build(objective), device).eval(), build_objective(ObjectiveConfig(name=objective))
    settings, labels = (
        family.supported(SamplingConfig(num_inference_steps=3, guidance_scale=1.5)),
        torch.arange(4).to(device) % 5,
    )
    with no_waiting(device), torch.no_grad():
        made = [
            family.generate(network, labels, KeyedDraws(0, range(first, first + 4), network), settings)
            for first in (0, 4)
        ]
    assert made[0].indices.shape == (4, 8, 8)
    assert not torch.equal(made[0].indices, made[1].indices)


def test_decoding_waits_for_nothing(device: torch.device) -> None:
    """Codes go up group by group while the group before is decoded."""
    tokenizer = VQTokenizer(VQConfig(codebook_size=300, codebook_dim=4, channels=(16, 16)).build(3, 16).to(device))
    indices = torch.randint(300, (70, 8, 8))
    next(iter(tokenizer._decode_groups(indices[:1])))  # libraries choose their kernels
    with no_waiting(device):
        groups = list(tokenizer._decode_groups(indices))
    assert sum(len(group) for group in groups) == 70


def test_pictures_come_down_whole(device: torch.device) -> None:
    made = (torch.full((1000, 1000), number, device=device) for number in range(5))
    assert [int(tensor.min()) for tensor in downloads(made)] == [0, 1, 2, 3, 4]


def test_parts_come_and_go(device: torch.device) -> None:
    pytest.importorskip("accelerate")
    if device.type != "cuda":
        pytest.skip("diffusers offloads from a GPU alone")
    vq = VQConfig(codebook_size=300, codebook_dim=4, channels=(16, 16)).build(3, 16)
    pipe = PurrceptionPipeline(build(), vq)
    expected = pipe(class_labels=[0, 1, 2], num_inference_steps=4, seed=1)
    pipe.enable_model_cpu_offload()
    found = pipe(class_labels=[0, 1, 2], num_inference_steps=4, seed=1)
    assert (found.indices == expected.indices).float().mean() > 0.98
    assert pipe.transformer.device.type == pipe.vqvae.device.type == "cpu"


@pytest.mark.parametrize("options", [(), ("--precision", "bfloat16", "--record", "True")])
def test_the_command_line_samples(
    tiny_run: Path, tmp_path: Path, device: torch.device, options: tuple[str, ...]
) -> None:
    done = run_cli(
        "sample",
        tiny_run,
        "--num",
        "9",
        "--batch-size",
        "4",
        "--device",
        str(device),
        *options,
        "--out",
        "made",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "made").glob("0*.png"))) == 9
