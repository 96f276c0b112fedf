"""The same training for each objective and seed, measured at geometrically spaced steps."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from purrception.comparison.entries import configure
from purrception.comparison.report import write_report
from purrception.comparison.rows import ROWS_FILE, read_rows
from purrception.comparison.settings import Protocol
from purrception.data import describe_report, open_images
from purrception.evaluation.metrics.held_out import held_out_metrics
from purrception.evaluation.sample_quality import SampleEvaluator
from purrception.experiment.build import build_network
from purrception.experiment.checks import check_config
from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.experiment.run import prepare_tokenizer, prepare_tokens
from purrception.flow import Objective, SamplingConfig, build_objective
from purrception.models import PurrceptionTransformer, training_flops
from purrception.storage import append_json_line, dump_settings, is_unused, one_writer, read_json, write_file
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training import RunDirectory, Trainer
from purrception.utils.errors import InputError, resumable
from purrception.utils.folders import absolute

PROTOCOL_FILE = "protocol.json"
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TUNED_TEMPERATURES, TUNED_GUIDANCES = (1.0, 0.9, 0.8), (1.0, 1.5, 2.0)


def geometric_steps(steps: int, points: int) -> list[int]:
    """``points`` steps up to ``steps``, each about √2 times the one before."""
    return sorted({max(1, round(steps / 2 ** (power / 2))) for power in range(points)})


def compare(recipe: RunConfig, protocol: Protocol, folder: Path) -> Path:
    """Train, measure and report; resume where the folder holds an interrupted comparison, or one of fewer entries.

    All entries share the tokenizer, the token shards, the order of the data, its noise and times, the
    optimiser, the EMA and the budget; for each seed they start from the same weights wherever shapes agree.

    Args:
        recipe: what all entries have in common.
        protocol: entries, seeds, points of measurement, images per measurement.
        folder: receives everything.

    Returns:
        The path of the report.

    Raises:
        InputError: the folder holds another comparison, or an entry does not fit the recipe, or no held-out
            image can be read; another process writes there, or the disk is full.
    """
    recipe = map_paths(recipe, absolute)
    configs = {entry: configure(recipe, entry) for entry in protocol.entries}
    for config in configs.values():
        check_config(config)
    images = open_images(recipe.data, "test")
    if len(images) < 2 or len(images.class_names) < 2:
        raise InputError(
            "a comparison needs at least 2 held-out images and 2 classes, since a classifier gives its features; "
            f"given {len(images)} and {len(images.class_names)}: see data.test_fraction and data.root"
        )
    with one_writer(folder), resumable(f"the same command goes on with {folder}"):
        return _compare(recipe, configs, protocol, _open(recipe, protocol, folder))


def _compare(recipe: RunConfig, configs: dict[str, RunConfig], protocol: Protocol, run: RunDirectory) -> Path:
    """Train, measure and report, in a folder that no other process writes to."""
    tokenizer = prepare_tokenizer(recipe, run)
    train, held_out = prepare_tokens(recipe, run, tokenizer)
    if held_out is None:
        skipped = describe_report(run.tokens / "test")
        raise InputError(
            f"a comparison needs held-out images; {skipped or f'{recipe.data.tokens} holds no tokens of them'}: "
            "repair some, or see data.test_fraction"
        )
    evaluator = SampleEvaluator(
        recipe.data,
        tokenizer,
        held_out.manifest.num_classes,
        protocol.num,
        recipe.evaluation.classifier,
        recipe.evaluation.features,
    )
    for seed in range(protocol.seeds):
        for entry, config in configs.items():
            seeded = replace(config, seed=recipe.seed + seed)
            _train_entry(entry, seeded, protocol, run, tokenizer, (train, held_out), evaluator)
    found = read_rows(run.root / ROWS_FILE, protocol.entries)
    rows = sorted(found, key=lambda row: protocol.entries.index(row["entry"]))
    return write_report(run.root, rows, recipe, evaluator.floor, evaluator.accuracy)


def _open(recipe: RunConfig, protocol: Protocol, folder: Path) -> RunDirectory:
    """A new folder, or a comparison to resume: the same, or one with fewer entries and seeds."""
    file, run = folder / PROTOCOL_FILE, RunDirectory(folder)
    if not file.is_file():
        killed = run.config_file.is_file() and is_unused(folder, but=(run.config_file.name,))
        if not killed or load_config(run.config_file) != recipe:
            RunDirectory.create(folder, dump_settings(recipe))
        write_file(file, json.dumps(asdict(protocol), indent=2))
        return run
    remedy = f"remove it, and give the same options as {folder} was begun with"
    begun: Protocol = read_json(file, Protocol, "the protocol of a comparison", remedy)
    grown = replace(begun, entries=protocol.entries, seeds=max(begun.seeds, protocol.seeds))
    if (
        grown != protocol
        or set(begun.entries) - set(protocol.entries)
        or map_paths(load_config(run.config_file), absolute) != recipe
    ):
        raise InputError(
            f"{folder} holds another comparison: choose another folder with --out, or change nothing except "
            "adding objectives and seeds"
        )
    write_file(file, json.dumps(asdict(protocol), indent=2))
    return run


def _train_entry(
    entry: str,
    config: RunConfig,
    protocol: Protocol,
    run: RunDirectory,
    tokenizer: VQTokenizer,
    tokens: tuple[TokenDataset, TokenDataset],
    evaluator: SampleEvaluator,
) -> None:
    """Train one entry with one seed, and append a row at each point that is not measured yet."""
    done = {(row["entry"], row["seed"], row["step"]) for row in read_rows(run.root / ROWS_FILE)}
    steps = config.training.steps
    points = geometric_steps(steps, protocol.points)
    missing = [step for step in points if (entry, config.seed, step) not in done]
    if not missing:
        return
    train, held_out = tokens
    own = RunDirectory(run.root / f"{entry}-seed{config.seed}")
    own.root.mkdir(exist_ok=True)
    write_file(own.config_file, dump_settings(config))
    quiet = replace(
        config.training, sample_every=0, validate_every=steps, checkpoint_every=steps, keep_checkpoints=1
    )
    network = build_network(config, train.manifest, tokenizer)
    _share_initial_weights(network, config, train, tokenizer)
    objective = build_objective(config.objective)
    trainer = Trainer(quiet, objective, network, train, held_out, own, config.seed)
    trainer.resume()
    flops = training_flops(network, config.training.batch_size)
    clock = own.root / "seconds.json"
    remedy = f"remove {own.root} and its rows, and start the command again"
    before: float = read_json(clock, Seconds, "a number of seconds", remedy) if clock.exists() else 0.0
    for step in missing:
        trainer.fit(until=step)
        if trainer.state.step != step:
            raise InputError(
                f"the row of {entry}, seed {config.seed}, step {step} is lost and its weights are gone: remove "
                f"{own.root} and the rows of that training in {run.root / ROWS_FILE}, and start the command again"
            )
        seconds = before + trainer.seconds
        write_file(clock, json.dumps(seconds))
        settings = objective.supported(config.sampling)
        quality = evaluator.measure(trainer.averaged(), objective, settings)
        unsampled = held_out_metrics(trainer.averaged(), objective, held_out, evaluator.seed)
        row = {
            "entry": entry,
            "seed": config.seed,
            "step": step,
            "seconds": seconds,
            "flops": step * flops,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "sampling": asdict(settings),
            **quality,
            **asdict(unsampled),
        }
        if protocol.tune and step == points[-1]:
            row["tuned"] = _tune(evaluator, trainer.averaged(), objective, settings)
        append_json_line(run.root / ROWS_FILE, row)
        print(
            f"{entry} seed {config.seed} step {step}: Fréchet {quality['frechet']:.2f}  "
            f"{unsampled.bits_per_code:.3f} bits/code",
            flush=True,
        )


def _tune(
    evaluator: SampleEvaluator, network: PurrceptionTransformer, objective: Objective, settings: SamplingConfig
) -> dict[str, Any]:
    """The best of a few temperatures and guidance scales by Fréchet distance.

    They are selected on one noise and measured again on another, so that having more to select from (a
    temperature) is no advantage in itself.
    """
    tried = []
    for temperature, guidance in product(TUNED_TEMPERATURES, TUNED_GUIDANCES):
        combination = replace(settings, temperature=temperature, guidance_scale=guidance)
        candidate = objective.supported(combination)
        if candidate == combination:  # without a posterior only τ = 1 is supported
            tried.append((evaluator.measure(network, objective, candidate)["frechet"], candidate))
    best = min(tried, key=lambda pair: pair[0])[1]
    measured = evaluator.measure(network, objective, best, seed=evaluator.seed + 1)
    return {"sampling": asdict(best), "tried": len(tried), **measured}


def _share_initial_weights(
    network: PurrceptionTransformer, config: RunConfig, train: TokenDataset, tokenizer: VQTokenizer
) -> None:
    """Take the plain recipe's initial weights wherever name and shape agree."""
    plain = build_network(configure(config, "purrception"), train.manifest, tokenizer)
    shared = dict(plain.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in shared and shared[name].shape == parameter.shape:
                parameter.copy_(shared[name])
