"""What goes to and fro between devices, as far as a machine without a GPU can show it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from purrception.flow import OBJECTIVES, ObjectiveConfig, SamplingConfig, build_objective
from purrception.flow.nearest import nearest_codes
from purrception.generation.cuda_graphs import Recording, StaticDraws
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import KeyedDraws, sample_codes
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import VQConfig
from purrception.utils.devices import autocast, downloads, resolve_device, takes_bfloat16, upload
from purrception.utils.errors import InputError
from tests.conftest import network_for


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("solver", ["euler", "stochastic"])
def test_batches_that_are_replayed_are_those_that_are_sampled(name: str, solver: str) -> None:
    """Eleven images in batches of four: two of the recording, and a rest that it does not fit."""
    objective = build_objective(ObjectiveConfig(name=name))
    network = network_for(objective)
    settings = objective.supported(
        SamplingConfig(num_inference_steps=4, guidance_scale=1.5, solver=solver, last_step="draw")
    )
    if name == "dfm":
        settings = replace(settings, solver=solver)
    labels = torch.arange(11) % 5
    plain, replayed = (
        sample_codes(network, objective, labels, settings, 3, 4, record=record) for record in (False, True)
    )
    assert torch.equal(plain.indices, replayed.indices)
    assert plain.nfe == replayed.nfe == 8
    if plain.entropy is not None and replayed.entropy is not None:
        assert torch.equal(plain.entropy, replayed.entropy)


def test_a_recording_asks_for_all_that_its_batch_asked_for(network: PurrceptionTransformer) -> None:
    first, second = (KeyedDraws(0, range(start, start + 2), network) for start in (0, 2))
    kept = StaticDraws(first)
    places = [kept.normal(0).data_ptr(), kept.normal(3).data_ptr(), kept.uniform(1).data_ptr()]
    assert torch.equal(kept.normal(3), first.normal(3))
    kept.copy_from(second)
    assert [kept.normal(0).data_ptr(), kept.normal(3).data_ptr(), kept.uniform(1).data_ptr()] == places
    assert torch.equal(kept.normal(0), second.normal(0))
    assert torch.equal(kept.uniform(1), second.uniform(1))


def test_results_of_a_recording_are_not_overwritten_by_the_next(network: PurrceptionTransformer) -> None:
    objective, settings = build_objective(ObjectiveConfig()), SamplingConfig(num_inference_steps=2)

    def draws(number: int) -> KeyedDraws:
        return KeyedDraws(number, range(2), network)

    labels = torch.tensor([0, 1])
    recording = Recording(lambda y, d: objective.generate(network, y, d, settings), labels, draws(0))
    first = recording(labels, draws(0))
    kept = first.indices.clone()
    assert not torch.equal(recording(labels, draws(1)).indices, kept)
    assert torch.equal(first.indices, kept)


def test_adaptive_steps_are_not_recorded(network: PurrceptionTransformer) -> None:
    settings = SamplingConfig(solver="dopri5")
    with pytest.raises(InputError, match="dopri5 chooses its steps"):
        sample_codes(network, build_objective(ObjectiveConfig()), torch.tensor([0]), settings, 0, 1, record=True)


def test_sampling_keeps_the_precision_of_its_caller(network: PurrceptionTransformer) -> None:
    seen: list[bool] = []
    for wanted in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            sample_codes(
                network,
                build_objective(ObjectiveConfig()),
                torch.tensor([0]),
                SamplingConfig(num_inference_steps=1),
                0,
                1,
                watch=lambda t, z, prediction: seen.append(torch.is_autocast_enabled("cpu")),
            )
    assert seen == [False, True]


def test_nearest_codes_are_exact_under_autocast() -> None:
    """Codes a thousandth apart: bfloat16 has three digits."""
    codebook = torch.linspace(1, 2, 1001)[:, None].repeat(1, 2)
    wanted = torch.randint(1001, (2, 4, 4))
    z = codebook[wanted].permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_codes(z, codebook), wanted)


def test_tensors_come_down_in_order() -> None:
    made = (torch.full((2,), number) for number in range(4))
    assert [int(tensor[0]) for tensor in downloads(made)] == [0, 1, 2, 3]
    assert list(downloads([])) == []
    tensor = torch.arange(3)
    assert torch.equal(upload(tensor, torch.device("cpu")), tensor)


@pytest.fixture
def pipe() -> PurrceptionPipeline:
    vq = VQConfig(codebook_size=17, codebook_dim=3, channels=(8, 8)).build(1, 8)
    return PurrceptionPipeline(network_for(build_objective(ObjectiveConfig())), vq)


def test_parts_that_are_offloaded_are_there_when_they_are_needed(pipe: PurrceptionPipeline) -> None:
    """With accelerate's own hooks, on one device: each part is asked for before its first use, and in turn."""
    accelerate = pytest.importorskip("accelerate")
    plain = pipe(class_labels=[1, 2], num_inference_steps=2)
    asked: list[str] = []

    class Telling(accelerate.hooks.CpuOffload):  # type: ignore[misc]
        def pre_forward(self, module: torch.nn.Module, *arguments: object, **options: object) -> object:
            asked.append(type(module).__name__)
            return super().pre_forward(module, *arguments, **options)

    for part in (pipe.transformer, pipe.vqvae):
        accelerate.hooks.add_hook_to_module(part, Telling(execution_device="cpu"))
    out = pipe(class_labels=[1, 2], num_inference_steps=2)
    assert torch.equal(out.indices, plain.indices)
    assert list(dict.fromkeys(asked)) == ["PurrceptionTransformer", "VQModel"]
    with pytest.raises(InputError, match=r"enable_model_cpu_offload\(\), which moves whole models"):
        pipe.enable_sequential_cpu_offload()


def test_a_device_is_picked_by_its_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpux", "cuda:99"):
        with pytest.raises(InputError, match=f"the device '{name}' cannot be used here"):
            resolve_device(name)


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_gpu"),
    [("auto", False, True), ("float32", False, False), ("bfloat16", True, True)],
)
def test_autocast_is_bfloat16_on_gpus_unless_somebody_says_otherwise(
    precision: str, on_cpu: bool, on_gpu: bool
) -> None:
    assert (takes_bfloat16(precision, "cpu"), takes_bfloat16(precision, "cuda")) == (on_cpu, on_gpu)
    weights = torch.eye(2)
    with autocast(precision, torch.device("cpu")):
        assert (weights @ weights).dtype == (torch.bfloat16 if on_cpu else torch.float32)
