"""The recipe that follows the paper's public code: its settings, and what they do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from purrception import PurrceptionPipeline
from purrception.cli import main
from purrception.data.transforms import tensor_to_bytes
from purrception.evaluation import EvaluationConfig
from purrception.evaluation.image_sets import CodeImages
from purrception.experiment.config import RunConfig
from purrception.experiment.recipes import get_recipe
from purrception.experiment.run import start_run
from purrception.experiment.saved_run import load_pipeline, sampling_defaults
from purrception.flow import ObjectiveConfig, SamplingConfig, TimeSampling, TrainingBatch, build_objective
from purrception.generation.sampler import KeyedDraws
from purrception.generation.scheduler import PurrceptionScheduler, saved_settings
from purrception.models import PurrceptionTransformer
from purrception.storage.pipeline_folder import SCHEDULER, write_scheduler
from purrception.tokenizers import VQTokenizer
from purrception.tokens import Manifest, TokenDataset
from purrception.training.batches import TrainingBatches
from purrception.utils.errors import InputError
from tests.conftest import tiny_config

SIZES = {"paper-code": (28, 1152, 16), "paper-code-l": (24, 1024, 16), "paper-code-b": (12, 768, 12)}


@pytest.mark.parametrize("name", SIZES)
def test_the_recipe_has_the_figures_of_the_public_configurations(name: str) -> None:
    recipe = get_recipe(name)
    network, training = recipe.network, recipe.training
    assert (network.depth, network.width, network.heads) == SIZES[name]
    assert (network.patch_size, network.mlp_ratio, network.time_scale) == (2, 4.0, 1.0)
    assert (training.steps, training.batch_size) == (4_000_000, 64)
    assert (training.learning_rate, training.betas, training.weight_decay) == (1e-4, (0.9, 0.999), 0.01)
    assert (training.gradient_clip, training.ema_decay, training.label_dropout) == (1.0, 0.9999, 0.0)
    assert training.learning_rate_at(0) == training.learning_rate_at(10**6) == 1e-4
    assert training.times() == TimeSampling(1e-3, 1.0, bfloat16=True)
    assert recipe.tokenizer.standardise is False
    assert (recipe.tokenizer.arch, recipe.data.classes, recipe.data.flips) == ("vq-f8", 1000, False)
    assert recipe.data.test_fraction == 0
    assert recipe.objective == ObjectiveConfig("purrception", 1e-5, sites="all", embedding="learned")
    assert recipe.sampling == SamplingConfig(num_inference_steps=99, redraw=True)
    assert recipe.evaluation == EvaluationConfig(10_000, (1.0,), features="inception", truncate=True)


def test_times_in_bfloat16_are_few_and_end_below_one() -> None:
    uniform = (torch.arange(2**20) + 0.5) / 2**20
    times = TimeSampling(1e-3, 1.0, bfloat16=True)(uniform)
    assert times.dtype == torch.float32
    assert 1200 < len(times.unique()) < 1300
    assert times.max() == 255 / 256
    assert times.min() == torch.tensor(1e-3).bfloat16()
    # what rounds to 1 becomes the lowest time, as a GPU's generator has it
    assert (times == times.min()).float().mean() == pytest.approx(1 / 512, rel=0.02)
    assert times.mean() == pytest.approx(0.5005 - 1 / 512, abs=1e-3)


def test_times_within_a_range_and_all_of_them_to_the_bit() -> None:
    uniform = torch.rand(1000)
    assert torch.equal(TimeSampling()(uniform), uniform)
    torch.testing.assert_close(TimeSampling(0.2, 0.7)(uniform), 0.2 + 0.5 * uniform)
    for low, high in ((0.5, 0.5), (-0.1, 1), (0.2, 1.1)):
        with pytest.raises(InputError, match="a range within 0 to 1"):
            TimeSampling(low, high)


def test_the_range_moves_the_times_of_the_stream_and_nothing_else(tiny_run: Path) -> None:
    dataset = TokenDataset(tiny_run / "tokens" / "train")
    plain = TrainingBatches(dataset, 3, 0.5).batch(0, 64)
    moved = TrainingBatches(dataset, 3, 0.5, TimeSampling(0.5, 1.0)).batch(0, 64)
    torch.testing.assert_close(moved.time, 0.5 + plain.time / 2)
    for name in ("indices", "labels", "noise"):
        assert torch.equal(getattr(moved, name), getattr(plain, name))


def as_paper_code(runs: Path, objective: str) -> RunConfig:
    """Its settings at the size of a test, on digits."""
    recipe, tiny = get_recipe("paper-code"), tiny_config(runs)
    kept = ("label_dropout", "weight_decay", "time_range", "time_precision")
    training = replace(tiny.training, **{name: getattr(recipe.training, name) for name in kept})
    return replace(
        tiny,
        name=objective,
        tokenizer=replace(tiny.tokenizer, standardise=recipe.tokenizer.standardise),
        objective=replace(recipe.objective, name=objective),
        network=replace(tiny.network, time_scale=recipe.network.time_scale),
        training=training,
        sampling=recipe.sampling,
    )


@pytest.mark.parametrize("objective", ["purrception", "dfm"])
def test_a_run_as_the_paper_code_has_it(objective: str, tmp_path: Path) -> None:
    run = start_run(as_paper_code(tmp_path / "runs", objective))
    pipeline, tokenizer = load_pipeline(run.root), VQTokenizer.load(run.tokenizer)
    network = pipeline.transformer
    assert torch.equal(network.codebook, tokenizer.codebook)
    assert Manifest.read(run.tokens / "train").standardisation.std != 1  # measured, and not applied
    assert network.config.time_scale == 1
    assert (network.tokens is not None) == (objective == "dfm")

    moved = tmp_path / "pipelines" / objective
    shutil.copytree(run.pipeline, moved)
    settings = sampling_defaults(moved)
    assert settings == SamplingConfig(num_inference_steps=99, redraw=objective == "dfm")
    assert PurrceptionPipeline.from_pretrained(moved).sample([0, 1], settings).nfe == 99


def test_the_settings_of_a_run_come_before_those_of_its_pipeline(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, run)
    assert saved_settings(run / "pipeline") == SamplingConfig(num_inference_steps=3)
    write_scheduler(PurrceptionScheduler(num_inference_steps=7).to_json_string(), run / "pipeline")
    of_pipeline, of_run = sampling_defaults(run / "pipeline"), sampling_defaults(run)
    assert of_pipeline.num_inference_steps == of_run.num_inference_steps == 3
    moved = shutil.copytree(run / "pipeline", tmp_path / "moved")
    assert sampling_defaults(moved).num_inference_steps == 7
    (moved / SCHEDULER).unlink()
    assert sampling_defaults(moved) == SamplingConfig()


def test_a_resumed_run_tells_its_pipeline_how_it_samples_now(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    assert main(["train", "--resume", str(run), "--sampling.steps", "5"]) == 0
    assert saved_settings(run / "pipeline").num_inference_steps == 5


def dfm_batch(network: PurrceptionTransformer) -> TrainingBatch:
    count = 6
    return TrainingBatch(
        torch.randint(17, (count, *network.grid)),
        torch.arange(count) % 5,
        torch.randn(count, 3, *network.grid),
        torch.linspace(0.1, 0.9, count),
    )


def masked_network(*, learned: bool) -> PurrceptionTransformer:
    return PurrceptionTransformer(
        grid=(4, 6),
        codebook_size=17,
        codebook_dim=3,
        num_classes=5,
        depth=1,
        width=32,
        heads=2,
        patch_size=2,
        input_channels=4,
        token_embedding=learned,
    )


@pytest.mark.parametrize("learned", [False, True])
def test_the_loss_over_all_sites_is_their_mean_cross_entropy(learned: bool) -> None:
    network = masked_network(learned=learned)
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    objective = build_objective(ObjectiveConfig("dfm", z_loss=0.01, sites="all"))
    batch = dfm_batch(network)
    losses = objective.loss(network, batch)
    hidden = torch.special.ndtr(batch.noise[:, 0]) >= batch.time.view(-1, 1, 1)
    logits = network.head.logits(network(network.embed_masked(batch.indices, hidden), batch.time, batch.labels))
    expected = torch.nn.functional.cross_entropy(logits.permute(0, 3, 1, 2), batch.indices)
    torch.testing.assert_close(losses.figures["cross_entropy"], expected)
    torch.testing.assert_close(losses.total, expected + 0.01 * logits.logsumexp(-1).square().mean())


def test_learned_vectors_begin_small() -> None:
    tokens = masked_network(learned=True).tokens
    assert tokens is not None
    assert tokens.weight.shape == (18, 32)
    assert tokens.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_redraw_draws_known_sites_at_the_paths_rate_and_leaves_no_mask() -> None:
    """With a posterior that knows nothing, a known site changes with probability 16/17 of the rate."""
    network = masked_network(learned=False).eval()  # its head starts at zero: uniform over 17 codes
    network.set_codebook(torch.randn(17, 3))
    objective, steps, images = build_objective(ObjectiveConfig("dfm")), 9, 400
    states: list[torch.Tensor] = []
    made = objective.generate(
        network,
        torch.zeros(images, dtype=torch.long),
        KeyedDraws(0, range(images), network),
        SamplingConfig(num_inference_steps=steps, redraw=True),
        watch=lambda t, z, prediction: states.append(z),
    )
    assert made.nfe == len(states) == steps
    states.append(network.embed_masked(made.indices, torch.zeros_like(made.indices, dtype=torch.bool)))
    for step, (before, after) in enumerate(pairwise(states)):
        t, known = step / (steps + 1), before[:, 3] == 0
        assert before[:, 3].mean() == pytest.approx(1 - t, abs=0.02)  # of a grid of ten, nine are made
        if step:
            changed = (before[:, :3] != after[:, :3]).any(1)[known].float().mean()
            rate = 1 / (steps + 1) / (1 - t)
            assert changed == pytest.approx(rate * 16 / 17, abs=0.04)
    assert made.indices.min() == 0
    assert made.indices.max() == 16


def test_redraw_belongs_to_dfm(network: PurrceptionTransformer) -> None:
    settings = SamplingConfig(num_inference_steps=2, redraw=True)
    for name in ("purrception", "cfm"):
        objective = build_objective(ObjectiveConfig(name))
        assert objective.supported(settings).redraw is False
        with pytest.raises(InputError, match="has no masks, hence no known sites to redraw"):
            objective.check(network, settings)
    dfm = build_objective(ObjectiveConfig("dfm"))
    assert dfm.supported(settings).redraw is True
    with pytest.raises(InputError, match="redraw is a sampler of its own"):
        dfm.check(network, replace(settings, solver="stochastic"))


def test_levels_are_rounded_or_cut(tiny_run: Path) -> None:
    values = torch.tensor([-1.5, -1.0, 2.4 / 127.5 - 1, 2.6 / 127.5 - 1, 1.0, 2.0]).view(1, 1, 1, 6)
    assert tensor_to_bytes(values).reshape(-1).tolist() == [0, 0, 2, 3, 255, 255]
    assert tensor_to_bytes(values, truncate=True).reshape(-1).tolist() == [0, 0, 2, 2, 255, 255]
    tokens, tokenizer = TokenDataset(tiny_run / "tokens" / "test"), VQTokenizer.load(tiny_run / "tokenizer")
    rounded, cut = (
        np.stack([image for image, _ in CodeImages(9, tokens.rows, tokenizer, truncate=truncate).read(range(9))])
        for truncate in (False, True)
    )
    difference = rounded.astype(int) - cut
    assert set(np.unique(difference)) == {0, 1}


def test_an_evaluation_says_that_levels_were_cut(tiny_run: Path, tmp_path: Path) -> None:
    options = ["--num", "8", "--guidances", "1.0", "--steps", "1", "--bootstrap", "0", "--device", "cpu"]
    run = shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    for number, cut in enumerate(([], ["--truncate", "True"])):
        out = tmp_path / str(number)
        command = ["evaluate", str(run), *options, *cut, "--save-images", "png", "--out", str(out)]
        assert main(command) == 0
        assert ('"levels": "truncated"' in (out / "report.json").read_text()) is bool(cut)
    names = sorted(path.name for path in (run / "evaluation/samples").glob("*/png-*"))
    assert names == ["png-8", "png-8-truncated"]
