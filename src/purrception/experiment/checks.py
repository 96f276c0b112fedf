"""Checks of a run's configuration, before anything is written or trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from purrception.data import open_images
from purrception.experiment.config import RunConfig
from purrception.flow import build_objective
from purrception.models import CATEGORICAL_HEADS, check_kernel
from purrception.storage.names import HUB_PREFIX
from purrception.tokenizers import VQTokenizer, open_tokenizer
from purrception.tokens import Manifest
from purrception.utils.errors import InputError

RESUMABLE_SECTIONS = frozenset({"training", "sampling", "evaluation"})


def check_config(config: RunConfig, tokenizer: VQTokenizer | None = None) -> None:
    """Refuse what would fail later.

    Args:
        config: the configuration of a run.
        tokenizer: encodes its images; default: the tokenizer that the configuration names.

    Raises:
        InputError: some settings do not fit each other, the images or the tokenizer.
    """
    check_names(config)
    class_names, grid = _check_tokens(config) if config.data.tokens else _check_images(config, tokenizer)
    if not class_names and config.sampling.guidance_scale != 1:
        raise InputError(
            f"these images have no classes, so there is nothing to guide by; given sampling.guidance_scale "
            f"{config.sampling.guidance_scale}, accepted 1"
        )
    config.network.patches(grid)


def check_names(config: RunConfig) -> None:
    """Refuse names and paths of nothing, which takes no time; part of :func:`check_config`.

    Raises:
        InputError: there is no such head or kernel, or nothing at a path.
    """
    build_objective(config.objective).check_evidence(config.head.evidence)
    if config.head.kind not in CATEGORICAL_HEADS:
        raise InputError(
            f"head.kind names the head of objectives with a posterior; given {config.head.kind!r}, accepted "
            f"{', '.join(CATEGORICAL_HEADS)}. Other objectives choose their head themselves"
        )
    check_kernel(config.training.head_kernel, config.training.resolve_device())
    if config.init_from and not config.init_from.startswith(HUB_PREFIX) and not Path(config.init_from).is_dir():
        raise InputError(f"init_from is a run or a pipeline to start from; there is none at {config.init_from}")
    path = config.tokenizer.path
    if path and not path.startswith(HUB_PREFIX) and not Path(path).exists():
        open_tokenizer(path, config.tokenizer.arch)  # says what is accepted


def _check_images(config: RunConfig, tokenizer: VQTokenizer | None) -> tuple[tuple[str, ...], tuple[int, int]]:
    """Class names and grid of the images, if they and the tokenizer fit each other."""
    images = open_images(config.data, "train")
    if len(images) == 0:
        raise InputError("there are no training images: lower data.test_fraction or add images")
    if config.tokenizer.arch and not config.tokenizer.path and tokenizer is None:
        raise InputError(
            f"this run uses the public tokenizer {config.tokenizer.arch}: give its checkpoint or converted folder "
            "with --tokenizer.path, or try the run without it with --dry-run"
        )
    if tokenizer is None and config.tokenizer.path:
        tokenizer = open_tokenizer(config.tokenizer.path, config.tokenizer.arch)
    if tokenizer is not None:
        downsampling = tokenizer.downsampling
        if tokenizer.image_channels != config.data.channels or config.data.image_size % downsampling:
            raise InputError(
                f"the tokenizer {config.tokenizer.path} takes images of {tokenizer.image_channels} channels whose "
                f"side is a multiple of {downsampling}; given data.channels {config.data.channels} and "
                f"data.image_size {config.data.image_size}"
            )
    else:
        model = config.tokenizer.model
        model.build(config.data.channels, config.data.image_size)
        config.tokenizer.training.check(model, config.data.image_size)
        downsampling = model.downsampling
    side = config.data.image_size // downsampling
    return images.class_names, (side, side)


def _check_tokens(config: RunConfig) -> tuple[tuple[str, ...], tuple[int, int]]:
    """Class names and grid of prepared shards, if they were made with the run's tokenizer."""
    if not config.tokenizer.path:
        raise InputError("data.tokens needs the tokenizer that made them: give it with --tokenizer.path DIR")
    location = f"{config.data.tokens.rstrip('/')}/train"
    manifest = Manifest.read(location)
    tokenizer = open_tokenizer(config.tokenizer.path, config.tokenizer.arch)
    check_tokenizer(manifest, tokenizer, location, "give that one as tokenizer.path")
    return manifest.class_names, manifest.grid


def check_tokenizer(manifest: Manifest, tokenizer: VQTokenizer, location: Path | str, remedy: str) -> None:
    """Refuse token shards that another tokenizer made; ``remedy`` says what to do.

    Raises:
        InputError: their tokenizer's hash is another one.
    """
    if manifest.tokenizer_hash != tokenizer.fingerprint:
        raise InputError(f"the token shards in {location} were made with another tokenizer: {remedy}")


def check_change(saved: RunConfig, config: RunConfig) -> None:
    """Refuse to change what a run has already built.

    Raises:
        InputError: the change concerns more than ``training``, ``sampling`` or ``evaluation``.
    """
    changed = {
        field.name
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(saved, field.name)
    }
    if fixed := sorted(changed - RESUMABLE_SECTIONS):
        raise InputError(
            f"a resumed run keeps its {', '.join(fixed)}; only {', '.join(sorted(RESUMABLE_SECTIONS))} "
            "may change: start another run with a --name of its own"
        )


def describe_jump(saved: RunConfig, config: RunConfig, step: int) -> str:
    """A line about a learning rate that rises at ``step`` because its cosine was made longer; else empty."""
    before, after = saved.training.learning_rate_at(max(step - 1, 0)), config.training.learning_rate_at(step)
    longer = config.training.decay == "cosine" and config.training.steps > saved.training.steps
    if step == 0 or not longer or after <= before:
        return ""
    return (
        f"the cosine now falls over {config.training.steps} steps instead of {saved.training.steps}, so that the "
        f"learning rate rises from {before:.3g} to {after:.3g} at step {step}; to stay at {before:.3g}, also give "
        f"--training.decay constant --training.learning-rate {before:.3g}"
    )
