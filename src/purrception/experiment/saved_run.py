"""Opening a saved run: its configuration, tokens, pipeline and sampling settings."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from purrception.experiment.build import build_network, build_pipeline
from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.flow import SamplingConfig, build_objective
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.scheduler import saved_settings
from purrception.storage.hub import local_folder
from purrception.storage.names import HUB_PREFIX
from purrception.tokenizers import VQTokenizer
from purrception.tokens import MANIFEST_FILE, Manifest, TokenDataset, TokenStore
from purrception.training import CheckpointStore, RunDirectory, is_pipeline
from purrception.training.checkpoint import Checkpoint
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.folders import absolute


def load_pipeline(path: Path | str) -> PurrceptionPipeline:
    """The pipeline of a folder, of a run (an unfinished one's latest checkpoint) or of ``hub:owner/name``.

    Raises:
        InputError: there is none, or its parts are damaged or do not belong together.
    """
    if str(path).startswith(HUB_PREFIX):
        return PurrceptionPipeline.from_pretrained(path)
    path = Path(path)
    if is_pipeline(path):
        return PurrceptionPipeline.from_pretrained(path)
    run = RunDirectory.open(path)
    if run.pipeline.is_dir():
        return PurrceptionPipeline.from_pretrained(run.pipeline)
    checkpoint = CheckpointStore(run.checkpoints).latest_whole()
    if checkpoint is None:
        raise InputError(f"the run {path} has no checkpoint yet: let it train, or --resume it")
    return _pipeline_of(run, checkpoint)


def load_best_pipeline(path: Path | str) -> PurrceptionPipeline:
    """The pipeline of a run's checkpoint with the lowest held-out loss.

    Raises:
        InputError: there is no run, none of its checkpoints has a held-out loss, or that checkpoint is damaged.
    """
    run = RunDirectory.open(path)
    checkpoint = CheckpointStore(run.checkpoints).best()
    if checkpoint is None:
        raise InputError(f"the run {path} has no checkpoint with a held-out loss: leave --checkpoint best out")
    checkpoint.check()
    return _pipeline_of(run, checkpoint)


def _pipeline_of(run: RunDirectory, checkpoint: Checkpoint) -> PurrceptionPipeline:
    """The pipeline of the averaged weights of a checkpoint."""
    config = saved_config(run)
    if not run.has_tokenizer:
        raise InputError(
            f"the tokenizer of the run is gone: {run.tokenizer} is missing; put the folder back, since another "
            "tokenizer would have other codes"
        )
    tokenizer = VQTokenizer.load(run.tokenizer)
    manifest = Manifest.read(_token_location(config, run, "train"))
    network = build_network(config, manifest, tokenizer)
    checkpoint.load_network(network, ema=True)
    return build_pipeline(config, tokenizer, manifest, network)


def sampling_defaults(path: Path | str) -> SamplingConfig:
    """The sampling settings of a run or pipeline, as far as its objective supports them.

    They come from the run's configuration, also for the pipeline folder in a run; else from the pipeline.
    """
    folder = local_folder(path) if str(path).startswith(HUB_PREFIX) else Path(path)
    for file in (RunDirectory(root).config_file for root in (folder, folder.parent)):
        if file.is_file():
            config = load_config(file)
            return build_objective(config.objective).supported(config.sampling)
    return saved_settings(folder)


def open_tokens(config: RunConfig, run: RunDirectory, split: str) -> TokenDataset | None:
    """The token shards of a split that a run trains on, its own or prepared ones; ``None`` if nothing is held out.

    Shards at an fsspec address are kept in the user's cache, for all runs.
    """
    location = _token_location(config, run, split)
    if split == "test" and TokenStore(location).fetch(MANIFEST_FILE) is None:
        return None
    return TokenDataset(location)


def _token_location(config: RunConfig, run: RunDirectory, split: str) -> Path | str:
    return f"{config.data.tokens.rstrip('/')}/{split}" if config.data.tokens else run.tokens / split


def saved_config(run: RunDirectory) -> RunConfig:
    """The configuration of a run, with paths that hold in any working folder.

    Runs keep absolute paths, but earlier versions kept them as they were typed. Such a path is looked up in the
    folder where training was started, if the run's location tells which that was, and then in the current one; a
    note is printed if images or token shards are in neither. If the tokenizer is no longer at its path, or an
    earlier version found it on the hub without ``hub:``, the run's own copy is used.
    """
    config = load_config(run.config_file)
    origin = _started_in(config, run)

    def place(text: str) -> str:
        original = absolute(str(origin / text)) if origin is not None and text else text
        return original if os.path.isabs(original) and _exists(original) else absolute(text)

    placed = _own_tokenizer(map_paths(config, place), run)
    for name, text in (("data.root", placed.data.root), ("data.tokens", placed.data.tokens)):
        if _is_lost(text, placed) and distributed.rank() == 0:
            print(
                f"note: this run keeps {name} {text!r} relative to the folder where its training was started"
                f"{f', {origin},' if origin else ''} and nothing is there now: start this command in the folder "
                "that holds it",
                file=sys.stderr,
            )
    return placed


def _own_tokenizer(config: RunConfig, run: RunDirectory) -> RunConfig:
    """The configuration with the run's copy of its tokenizer, if there is one and the original is gone."""
    path = config.tokenizer.path
    if not path or path.startswith(HUB_PREFIX) or os.path.exists(path) or not run.has_tokenizer:
        return config
    own = dataclasses.replace(config.tokenizer, path=os.path.abspath(run.tokenizer), arch="")
    return dataclasses.replace(config, tokenizer=own)


def _started_in(config: RunConfig, run: RunDirectory) -> Path | None:
    """The working folder of a training, if the run still lies at RUNS/NAME below it; ``None`` if unknown."""
    here, below = run.root.resolve(), Path(config.runs) / config.name
    if below.is_absolute() or here.parts[-len(below.parts) :] != below.parts:
        return None
    return here.parents[len(below.parts) - 1]


def _exists(path: str) -> bool:
    return os.path.exists(path) or (path.endswith(".tar") and os.path.isdir(os.path.dirname(path)))


def _is_lost(text: str, config: RunConfig) -> bool:
    """Whether a text is a relative path, which :func:`absolute` keeps only if nothing is there."""
    of_hub = config.data.source == "hub" and text == config.data.root
    return bool(text) and "://" not in text and not of_hub and not os.path.isabs(text)
