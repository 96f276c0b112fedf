"""What a training is about to do, in some ten lines; a file in its folder has every setting."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from purrception.data.config import BUILT_IN, DataConfig
from purrception.experiment.build import empty_network
from purrception.experiment.config import RunConfig, TokenizerRunConfig
from purrception.experiment.plan.cost import token_sizes
from purrception.experiment.plan.images import ImageCounts, count_images, prepared_manifests
from purrception.experiment.plan.speed import measured_step, measured_tokenizer_step
from purrception.experiment.tokenizer_run import CONFIG_FILE
from purrception.flow import build_objective
from purrception.models import PurrceptionTransformer
from purrception.training import CheckpointStore, RunDirectory
from purrception.utils import distributed
from purrception.utils.text import COUNTS, aligned, in_units, roughly

LEAST_STEPS = 500
"""A run of fewer steps is over before its time is worth measuring."""


def summarise(config: RunConfig, run: RunDirectory, given: Sequence[str] = ()) -> str:
    """A summary of a run, for the person who starts or resumes it.

    Args:
        config: its configuration, which fits the images.
        run: where it is, or will be.
        given: the options on the command line.
    """
    manifests = prepared_manifests(config)
    counts = count_images(config, manifests, None, None)
    grid, size, dim = token_sizes(config, manifests)
    build = partial(empty_network, config, grid, size, dim, counts.classes)
    with torch.device("meta"):
        network = build()
    parameters = in_units(sum(parameter.numel() for parameter in network.parameters()), COUNTS)
    latest = CheckpointStore(run.checkpoints).latest()
    sizes, training, sampling = config.network, config.training, config.sampling
    lines = {
        "images": _describe_images(config.data, counts),
        "tokenizer": f"{_describe_tokenizer(config)}: {size} codes of {dim} dimensions, "
        f"{grid[0]}×{grid[1]} an image",
        "network": f"DiT, {sizes.depth} blocks of width {sizes.width}, patch {sizes.patch_size}, objective "
        f"{config.objective.name}: {parameters} parameters",
        "training": f"{training.steps} steps of {training.batch_size} images, learning rate "
        f"{training.learning_rate:g}",
        "device": _describe_device(config),
        "sampling": f"{sampling.solver}, {sampling.num_inference_steps} steps, temperature "
        f"{sampling.temperature}, guidance {sampling.guidance_scale:g}",
        "options": shlex.join(given),
        "resumed": f"from step {latest.state.step}" if latest else "",
        "time": _describe_time(config, build) if latest is None else "",
        "writes to": f"{run.root} (every setting: {run.config_file.name})",
    }
    return aligned({name: text for name, text in lines.items() if text})


def summarise_tokenizer(config: TokenizerRunConfig, folder: Path, given: Sequence[str] = ()) -> str:
    """A summary of the training of a tokenizer by itself.

    Args:
        config: its configuration.
        folder: where it will be.
        given: the options on the command line.
    """
    counts = count_images(RunConfig("tokenizer", data=config.data), None, None, None)
    model, training = config.model, config.training
    side = config.data.image_size // model.downsampling
    start = f", from {config.init_from}" if config.init_from else ""
    part = ", its decoder alone" if config.decoder_only else ""
    lines = {
        "images": _describe_images(config.data, counts),
        "tokenizer": f"{model.codebook_size} codes of {model.codebook_dim} dimensions, {side}×{side} an image, "
        f"widths {' '.join(map(str, model.channels))}{start}{part}",
        "training": f"{training.steps} steps of {training.batch_size} images, learning rate "
        f"{training.learning_rate:g}, quantiser {training.quantiser}",
        "options": shlex.join(given),
        "writes to": f"{folder} (every setting: {CONFIG_FILE})",
    }
    return aligned({name: text for name, text in lines.items() if text})


def _describe_images(data: DataConfig, counts: ImageCounts) -> str:
    source = data.tokens or " ".join(filter(None, (data.source, data.root)))
    split = f"{counts.train} for training, {counts.held_out or 'none'} held out, " if counts.train else ""
    told = f"{source}: {split}{counts.classes or 'no'} classes"
    if data.tokens:  # whatever they were made of
        return told
    flips = "with their mirror images" if data.flips else "not mirrored (--data.flips)"
    colours = "grey" if data.channels == 1 else "colour"
    return f"{told}; {data.image_size}×{data.image_size} pixels, {colours}, {flips}"


def _describe_tokenizer(config: RunConfig) -> str:
    own, training = config.tokenizer, config.tokenizer.training
    return own.path or f"trained first, {training.steps} steps of {training.batch_size} images"


def _describe_device(config: RunConfig) -> str:
    device = config.training.resolve_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    precision = "bfloat16" if config.training.takes_bfloat16(device.type) else "float32"
    many = f", {distributed.count()} processes ({config.training.parallel})" if distributed.count() > 1 else ""
    return f"{device} ({name}), {precision}{many}"


def _describe_time(config: RunConfig, build: Callable[[], PurrceptionTransformer]) -> str:
    """How long a run on images of the user's own will take, from a few steps on this machine; empty for others.

    What the recipes of built-in images take is documented, and many processes share the work.
    """
    own = config.data.source not in BUILT_IN and not config.tokenizer.path and not config.data.tokens
    steps = config.tokenizer.training.steps, config.training.steps
    if not own or sum(steps) < LEAST_STEPS or distributed.count() > 1:
        return ""
    tokenizer, _ = measured_tokenizer_step(config)
    with torch.random.fork_rng(devices=[]):
        network, _ = measured_step(config.training, build_objective(config.objective), build())
    parts = steps[0] * tokenizer, steps[1] * network
    return (
        f"about {roughly(sum(parts))} on this machine, by a few steps: {roughly(parts[0])} for the tokenizer, "
        f"{roughly(parts[1])} for the network; sample grids and held-out losses take more"
    )
