"""Plan: predictions that a built network, a real step and written shards agree with."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from purrception.bench import BenchConfig
from purrception.bench.measure import peak_memory
from purrception.bench.peaks import known_peak
from purrception.cli import main
from purrception.data import DataConfig, open_images
from purrception.experiment.build import build_network
from purrception.experiment.config import RunConfig, TokenizerConfig
from purrception.experiment.plan import PlanOptions, plan
from purrception.experiment.plan.speed import measured_peak
from purrception.experiment.recipes import get_recipe
from purrception.flow import build_objective
from purrception.models import DiTConfig
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training.batches import TrainingBatches
from purrception.training.config import Parallel
from purrception.utils.errors import InputError
from purrception.utils.text import BYTES, COUNTS, FLOPS, TIMES, Units, in_units
from tests.conftest import run_cli, tiny_config
from tests.forked import python


def test_the_largest_recipe_is_of_the_papers_size() -> None:
    made = plan(get_recipe("imagenet256-xl"), PlanOptions(gpus=8))
    assert sum(made.parameters.values()) == pytest.approx(750e6, rel=0.01)  # FACTS: 750 M parameters
    assert made.disk == pytest.approx(2.63e9, rel=0.01)  # 2.6 GB of uint16 indices
    assert made.steps == 3_500_000
    flops = made.training_flops * made.steps * made.batch_size
    assert made.seconds == pytest.approx(flops / (8 * 989e12 * 0.3))
    recipe = get_recipe("imagenet256-xl")
    compiled = plan(replace(recipe, training=replace(recipe.training, compile=True)), PlanOptions(gpus=8))
    assert compiled.seconds == pytest.approx(flops / (8 * 989e12 * 0.4))


def small(name: str) -> RunConfig:
    """A recipe with a network and a batch that are planned at once."""
    recipe = get_recipe(name)
    training = replace(recipe.training, batch_size=8)
    return replace(recipe, network=DiTConfig.preset("nano/2"), training=training)


def write_images(folder: Path, per_class: int) -> None:
    for name in ("cats", "dogs", "birds"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / name / f"{number}.png")


@pytest.mark.parametrize(
    ("recipe", "images", "classes"), [("digits", (1442, 355), 10), ("photos", (8056, 1824), 2)]
)
def test_images_that_are_here_are_counted(recipe: str, images: tuple[int, int], classes: int) -> None:
    made = plan(get_recipe(recipe), PlanOptions(device="cpu", tflops=1))
    assert (made.images.train, made.images.held_out, made.images.classes) == (*images, classes)
    assert made.disk == sum(images) * made.bytes_per_row
    for split, count in zip(("train", "test"), images, strict=True):
        assert len(open_images(get_recipe(recipe).data, split)) == count  # type: ignore[arg-type]


def test_a_folder_is_counted_with_its_views_and_its_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", 20)
    recipe = get_recipe("folder")
    data = replace(recipe.data, root=str(tmp_path / "pictures"), image_size=32, test_fraction=0.3)
    for change, views in (({"flips": False}, 1), ({"flips": True}, 2), ({"views": 5}, 5)):
        made = plan(replace(recipe, data=replace(data, **change)), PlanOptions(tflops=1))  # type: ignore[arg-type]
        assert made.images.train is not None
        assert made.images.held_out is not None
        assert made.images.train + made.images.held_out == 60
        assert made.images.rows == views * made.images.train + made.images.held_out
        assert made.images.classes == 3
    with pytest.raises(InputError, match="no folder of images at 'nowhere'"):
        plan(replace(recipe, data=replace(data, root="nowhere")), PlanOptions(tflops=1))


def test_prepared_tokens_say_what_they_hold(tiny_run: Path) -> None:
    recipe = get_recipe("folder")  # leaves the images' size open
    config = replace(recipe, data=replace(recipe.data, tokens=str(tiny_run / "tokens")))
    made = plan(config, PlanOptions(tflops=1))
    assert (made.images.train, made.images.held_out, made.images.classes) == (1442, 355, 10)
    assert (made.grid, made.codebook_size, made.codebook_dim) == ((4, 4), 16, 3)


def test_images_that_are_not_here_are_those_stated_or_unknown() -> None:
    options = PlanOptions(gpus=1, tflops=1)
    imagenet = plan(small("imagenet256-b"), options).images
    assert (imagenet.train, imagenet.held_out) == (1_268_355, 12_812)
    unknown = plan(small("coco128"), options)
    assert (unknown.images.train, unknown.images.rows, unknown.disk) == (None, None, None)
    assert "unknown (give their number with --num-images), no classes" in unknown.text()
    given = plan(small("coco128"), replace(options, images=1000))
    assert (given.images.train, given.images.held_out) == (980, 20)
    assert given.disk == (2 * 980 + 20) * (2 * 16 * 16 + 4)  # flips
    told = plan(replace(small("folder"), data=DataConfig("folder")), options).text()
    assert "assuming no classes (--num-classes)" in " ".join(told.split())


def test_a_given_speed_and_share_make_the_time() -> None:
    made = plan(get_recipe("digits"), PlanOptions(device="cpu", tflops=0.1, utilisation=0.25))
    flops = made.training_flops * 3000 * 64
    assert made.seconds == pytest.approx(flops / 0.1e12 / 0.25)
    assert made.speed.steps_taken == 0
    assert "100 GFLOP/s (given), of which training reaches 25 % (given)" in made.text()


def test_gpus_are_known_by_name() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3") == 989
    assert known_peak("NVIDIA H100 PCIe") == 756
    assert known_peak("NVIDIA A100-SXM4-80GB") == 312
    assert known_peak("Intel Xeon") is None
    made = plan(small("imagenet256-b"), PlanOptions(gpus=4, gpu="a100"))
    assert (made.speed.tflops, made.speed.device, made.speed.utilisation) == (312, "cuda", 0.3)
    assert made.seconds == pytest.approx(made.training_flops * 8 * 400_000 / (4 * 312e12 * 0.3))


def test_on_this_machine_steps_are_taken_or_a_product_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purrception.experiment.plan.speed.SECONDS", 0.0)
    before = torch.random.get_rng_state()
    made = plan(get_recipe("digits"), PlanOptions(device="cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made.speed.steps_taken == 3
    per_second = made.training_flops * 64 / made.speed.seconds_per_step
    assert made.speed.utilisation == pytest.approx(per_second / (1e12 * made.speed.tflops))
    assert made.seconds == 3000 * made.speed.seconds_per_step
    assert 0 < made.speed.utilisation < 1
    assert "measured here: a float32 product" in made.text()

    recipe = get_recipe("imagenet256-b")
    fewer = replace(recipe, training=replace(recipe.training, batch_size=8))
    large = plan(fewer, PlanOptions(device="cpu"))
    assert (large.speed.steps_taken, large.speed.utilisation) == (0, 0.5)
    assert large.seconds == pytest.approx(large.training_flops * 8 * 400_000 / (1e12 * large.speed.tflops * 0.5))
    assert "reaches 50 % (assumed)" in large.text()
    given = plan(get_recipe("digits"), PlanOptions(device="cpu", utilisation=0.5))
    assert (given.speed.steps_taken, given.speed.utilisation) == (0, 0.5)


def test_a_measured_product_is_that_of_a_real_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purrception.experiment.plan.speed.SECONDS", 0.0)
    tflops, side = measured_peak(torch.device("cpu"), torch.float32)
    assert 256 <= side <= 8192
    assert 1e-4 < tflops < 1e3


def test_memory_of_a_processor_is_that_of_its_precision() -> None:
    recipe = get_recipe("photos")
    auto, full, low = (
        plan(
            replace(recipe, training=replace(recipe.training, precision=precision)),
            PlanOptions(device="cpu", tflops=1),
        )
        for precision in ("auto", "float32", "bfloat16")
    )
    assert auto.memory == full.memory
    assert low.memory["activations"] < full.memory["activations"]


@pytest.mark.parametrize(
    ("value", "units", "text"),
    [
        (0, BYTES, "0 B"),
        (36, BYTES, "36 B"),
        (1536, BYTES, "1.5 KiB"),
        (3.5 * 2**40, BYTES, "3.5 TiB"),
        (1023 * 1024, BYTES, "1023 KiB"),
        (786_432, FLOPS, "786 kFLOP"),
        (2.5e15, FLOPS, "2.5 PFLOP"),
        (748_000, COUNTS, "748 k"),
        (750.4e6, COUNTS, "750 M"),
        (1.5e9, COUNTS, "1.5 G"),
        (7, COUNTS, "7"),
        (0.25, TIMES, "0.25 seconds"),
        (90, TIMES, "1.5 minutes"),
        (7200, TIMES, "2 hours"),
        (86_400 * 2.17, TIMES, "2.17 days"),
        (86_400 * 12_345, TIMES, "12345 days"),
    ],
)
def test_units_fit(value: float, units: Units, text: str) -> None:
    assert in_units(value, units) == text


def test_a_plan_is_what_a_run_then_measures(tiny_run: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    train = TokenDataset(tiny_run / "tokens" / "train")
    network = build_network(config, train.manifest, VQTokenizer.load(tiny_run / "tokenizer"))
    made = plan(config, PlanOptions(gpus=1, images=len(train)))
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
    recipe = small("imagenet256-b")
    with pytest.raises(InputError, match=r"precision float32 give --tflops"):
        plan(replace(recipe, training=replace(recipe.training, precision="float32")), PlanOptions(gpu="H100"))
    with pytest.raises(InputError, match="multiple of the tokenizer's downsampling 16; given 8"):
        plan(
            tiny := replace(
                recipe, data=replace(recipe.data, image_size=8), tokenizer=TokenizerConfig(arch="vq-f16")
            )
        )
    with pytest.raises(InputError, match="did you mean 'vq-f16'"):
        plan(replace(tiny, tokenizer=TokenizerConfig(arch="vq-f61")))
    with pytest.raises(InputError, match=r"would take more than 1e\+18 seconds"):
        plan(recipe, PlanOptions(tflops=1e-6, utilisation=1e-320))
    with pytest.raises(InputError, match=r"training\.steps is at most .* a number of more than 20 digits"):
        replace(recipe.training, steps=10**400)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("tflops", "0", "tflops must be a speed from 1e-06 to 1e+09 TFLOP/s; given 0"),
        ("tflops", "-1", "given -1"),
        ("tflops", "1e-320", "tflops must be a speed"),
        ("tflops", "nan", "given nan"),
        ("tflops", "inf", "given inf"),
        ("tflops", "1e300", "given 1e+300"),
        ("utilisation", "nan", "utilisation must lie in (0, 1]; given nan"),
        ("gpus", "0", "a plan needs gpus of at least 1; given 0"),
        ("gpus-per-machine", "0", "a plan needs gpus_per_machine of at least 1; given 0"),
        ("images", "0", "a plan needs images of at least 1; given 0"),
        ("classes", "-1", "classes must be at least 0; given -1"),
        ("gpu", "H10", "unknown GPU 'H10': did you mean 'H100'?"),
        ("device", "gpu", "invalid choice"),
    ],
)
def test_one_line_says_what_no_machine_has(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "digits", f"--{option}", value]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert "PlanOptions" not in line


def test_bench_refuses_such_speeds_too() -> None:
    for tflops in (-1.0, 1e-320, float("nan"), float("inf")):
        with pytest.raises(InputError, match="tflops must be a speed"):
            BenchConfig(tflops=tflops)


def test_more_gpus_take_proportionally_less_time_and_activations_grow_by_the_image() -> None:
    recipe = get_recipe("photos")
    one, two, four = (plan(recipe, PlanOptions(gpus=gpus)) for gpus in (1, 2, 4))
    assert one.seconds == pytest.approx(4 * four.seconds)
    large, middle, small = (made.memory["activations"] for made in (one, two, four))
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.01)  # what is left is not by the image
    assert large - middle > 0.4 * large


def test_memory_is_what_a_process_then_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python())
    sizes = BenchConfig(network="mini/2", grid=16, codebook_size=4096, precision="float32", device="cpu")
    recipe = get_recipe("imagenet256-b")
    config = replace(
        recipe,
        network=sizes.sizes(),
        data=replace(recipe.data, image_size=32),
        tokenizer=TokenizerConfig(model=VQConfig(codebook_size=4096, channels=(8, 8))),
        training=replace(recipe.training, batch_size=32, precision="float32"),
    )
    made = plan(config, PlanOptions(device="cpu", tflops=1))
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
    assert "gathered weights" not in ddp
    assert fsdp["gathered weights"] == hybrid["gathered weights"] < ddp["weights"] + ddp["gradients"]
    assert memory("hybrid", shards=4)[0] == 4
    with pytest.raises(InputError, match="given 16 and 3"):
        memory("hybrid", shards=3)
