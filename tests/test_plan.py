"""Plan: predictions that a built network, a real step and written shards agree with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from purrception.bench import BenchConfig
from purrception.bench.measure import peak_memory
from purrception.config import TokenizerConfig
from purrception.errors import InputError
from purrception.experiment import build_network
from purrception.flow import build_objective
from purrception.models import DiTConfig
from purrception.plan import PlanOptions, plan
from purrception.recipes import get_recipe
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training.batches import TrainingBatches
from purrception.training.config import Parallel
from tests.conftest import run_cli, tiny_config


def test_the_largest_recipe_is_of_the_papers_size() -> None:
    made = plan(get_recipe("imagenet256-xl"), PlanOptions(gpus=8))
    assert sum(made.parameters.values()) == pytest.approx(750e6, rel=0.01)  # FACTS: 750 M parameters
    assert made.disk == pytest.approx(2.63e9, rel=0.01)  # 2.6 GB of uint16 indices
    assert made.steps == 3_500_000
    flops = made.training_flops * made.steps * made.batch_size
    assert made.seconds == pytest.approx(flops / (8 * 989e12 * 0.5))


def test_a_plan_is_what_a_run_then_measures(tiny_run: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    train = TokenDataset(tiny_run / "tokens" / "train")
    network = build_network(config, train.manifest, VQTokenizer.load(tiny_run / "tokenizer"))
    made = plan(config, PlanOptions(images=len(train), classes=10))
    assert sum(made.parameters.values()) == sum(parameter.numel() for parameter in network.parameters())
    assert made.grid == train.manifest.grid
    shards = sum(path.stat().st_size for path in (tiny_run / "tokens" / "train").glob("*.safetensors"))
    assert made.disk == pytest.approx(shards, rel=0.1)

    seen: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in (*network.parameters(), *network.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = TrainingBatches(train, 0, 0.1).batch(0, config.training.batch_size)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        total = build_objective(config.objective).loss(network, batch).total
    assert made.memory["activations"] == pytest.approx(sum(seen.values()), rel=0.05)
    assert total.requires_grad


def test_a_plan_on_the_command_line_needs_no_data(tmp_path: Path) -> None:
    result = run_cli("plan", "imagenet256-b", "--gpus", "4", "--training.steps", "1000", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert (made["steps"], made["machine"]["gpus"], made["images_per_process"]) == (1000, 4, 64)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be shared by 3 GPUs"):
        plan(get_recipe("digits"), PlanOptions(gpus=3))
    with pytest.raises(InputError, match="utilisation"):
        PlanOptions(utilisation=0)
    with pytest.raises(InputError, match="at least 1 GPU"):
        PlanOptions(gpus=0)


def test_more_gpus_take_proportionally_less_time_and_activations_grow_by_the_image() -> None:
    recipe = get_recipe("photos")
    one, two, four = (plan(recipe, PlanOptions(gpus=gpus)) for gpus in (1, 2, 4))
    assert one.seconds == pytest.approx(4 * four.seconds)
    large, middle, small = (made.memory["activations"] for made in (one, two, four))
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.01)  # what is left is not by the image
    assert large - middle > 0.4 * large


def test_memory_is_what_a_process_then_takes() -> None:
    sizes = BenchConfig(network="mini/2", grid=16, codebook_size=4096, precision="float32", device="cpu")
    recipe = get_recipe("imagenet256-b")
    config = replace(
        recipe,
        network=sizes.sizes(),
        data=replace(recipe.data, image_size=32),
        tokenizer=TokenizerConfig(model=VQConfig(codebook_size=4096, channels=(8, 8))),
        training=replace(recipe.training, batch_size=32, precision="float32"),
    )
    made = plan(config, PlanOptions(device="cpu"))
    assert made.grid == (16, 16)
    measured = peak_memory(sizes, "training", "ours", 32)
    assert sum(made.memory.values()) == pytest.approx(measured, rel=0.15)


def test_shards_divide_the_state_and_nothing_else() -> None:
    recipe = replace(get_recipe("imagenet256-b"), network=DiTConfig.preset("S/2"))

    def memory(parallel: Parallel, **training: int) -> tuple[int, dict[str, int]]:
        config = replace(recipe, training=replace(recipe.training, parallel=parallel, **training))
        made = plan(config, PlanOptions(gpus=16))
        return made.shards, made.memory

    (one, ddp), (sixteen, fsdp), (eight, hybrid) = memory("ddp"), memory("fsdp"), memory("hybrid")
    assert (one, sixteen, eight) == (1, 16, 8)
    for kind in ("weights", "gradients", "optimiser", "moving average"):
        assert ddp[kind] == pytest.approx(16 * fsdp[kind], rel=1e-6)
        assert ddp[kind] == pytest.approx(8 * hybrid[kind], rel=1e-6)
    for kind in ("activations", "head"):
        assert ddp[kind] == fsdp[kind] == hybrid[kind]
    assert "whole at a time" not in ddp
    assert fsdp["whole at a time"] == hybrid["whole at a time"] < ddp["weights"] + ddp["gradients"]
    assert memory("hybrid", shards=4)[0] == 4
    with pytest.raises(InputError, match="given 3 and 16"):
        memory("hybrid", shards=3)
