"""Training a model, from a configuration to a pipeline: each stage is skipped if it is already done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from purrception.data import open_images
from purrception.experiment.build import build_network, build_pipeline, run_scheduler
from purrception.experiment.checks import check_change, check_config, check_names, check_tokenizer, describe_jump
from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.experiment.saved_run import load_pipeline, open_tokens, saved_config
from purrception.experiment.warm_start import warm_start
from purrception.flow import build_objective
from purrception.instruments.training_monitor import TrainingMonitor
from purrception.storage import dump_settings, move_into_place, one_writer, whole_folder, write_file
from purrception.storage.locks import locked
from purrception.storage.pipeline_folder import write_scheduler
from purrception.tokenizers import VQTokenizer, convert_tokenizer, train_tokenizer
from purrception.tokens import MANIFEST_FILE, TokenDataset, describe_skipped, prepare_splits
from purrception.training import CheckpointStore, RunDirectory, Trainer
from purrception.utils import distributed
from purrception.utils.errors import resumable
from purrception.utils.folders import absolute
from purrception.utils.text import command_line

Announce = Callable[[RunConfig, RunDirectory], None]
"""Is called by the first process when everything is checked, and before anything takes long."""


def check_start(config: RunConfig) -> None:
    """Refuse a run whose name is taken, or that names nothing, before any image is read.

    Raises:
        InputError: see :func:`purrception.experiment.checks.check_names`.
    """
    if distributed.is_first_start():  # later ones find the run of this one
        run = RunDirectory(Path(config.runs) / config.name)
        if run.config_file.is_file():
            with locked(run.root, run.root):  # who is writing there is told first
                pass
        run.require_unused()
    check_names(config)


def start_run(config: RunConfig, announce: Announce | None = None) -> RunDirectory:
    """Start a new run and take it through all stages, in one process or in all processes of ``torchrun``.

    When ``torchrun`` restarts its processes, they resume the run that they had started.

    Args:
        config: the configuration.
        announce: tells the user what begins.

    Raises:
        InputError: a run is already there, or the configuration does not fit the data.
    """
    config = map_paths(config, absolute)
    root = Path(config.runs) / config.name
    with distributed.joined(config.training.resolve_device(), config.training.timeout_minutes):
        file = RunDirectory(root).config_file
        if distributed.restarted() and file.is_file() and load_config(file) == config:
            return resume_run(root)
        check_config(config)
        distributed.wait()  # every process has looked before the first one writes
        with one_writer(root):
            if distributed.rank() == 0:
                RunDirectory.create(root, dump_settings(config))
            return _complete(config, RunDirectory(root), announce)


def resume_run(
    root: Path | str, config: RunConfig | None = None, announce: Announce | None = None
) -> RunDirectory:
    """Resume a run from whatever stage it had reached.

    Args:
        root: the run directory.
        config: its configuration, with changes in ``training``, ``sampling`` or ``evaluation`` only.
        announce: tells the user what begins.

    Raises:
        InputError: no run is there, or the change concerns what has already been built.
    """
    run = RunDirectory.open(root)
    saved = saved_config(run)
    training = (config or saved).training
    with distributed.joined(training.resolve_device(), training.timeout_minutes), one_writer(run.root):
        if config is not None and config != saved:
            _change_config(run, saved, config)
        return _complete(config or saved, run, announce)


def _change_config(run: RunDirectory, saved: RunConfig, config: RunConfig) -> None:
    """Give a run another configuration, if what it has already built allows it."""
    check_change(saved, config)
    check_config(config)
    distributed.wait()
    if distributed.rank() == 0:
        latest = CheckpointStore(run.checkpoints).latest()
        if jump := describe_jump(saved, config, latest.state.step if latest else 0):
            print(jump, flush=True)
        write_file(run.config_file, dump_settings(config))


def _complete(config: RunConfig, run: RunDirectory, announce: Announce | None) -> RunDirectory:
    """Go through all stages; an interruption says how to go on."""
    with resumable(f"go on with: {command_line(['train', '--resume', str(run.root)])}"):
        if announce is not None and distributed.rank() == 0:
            announce(config, run)
        distributed.wait()
        return _stages(config, run)


def _stages(config: RunConfig, run: RunDirectory) -> RunDirectory:
    """Tokenizer → token shards → training → pipeline."""
    tokenizer = prepare_tokenizer(config, run)
    train, held_out = prepare_tokens(config, run, tokenizer)
    trainer = build_trainer(config, run, tokenizer, train, held_out)
    first = distributed.rank() == 0
    trainer.resume()
    if trainer.state.step < config.training.steps and first:
        # A pipeline of a shorter training is out of date; until the new one, samples come from checkpoints.
        shutil.rmtree(run.pipeline, ignore_errors=True)
    trainer.fit()
    averaged = trainer.averaged()
    if first and not run.pipeline.exists():
        pipeline = build_pipeline(config, tokenizer, train.manifest, averaged)
        with whole_folder(run.pipeline) as partial:
            pipeline.save_pretrained(partial)
    elif first:  # a resumed run may have other sampling settings
        write_scheduler(run_scheduler(config).to_json_string(), run.pipeline)
    distributed.wait()
    return run


def prepare_tokenizer(config: RunConfig, run: RunDirectory) -> VQTokenizer:
    """Load the run's tokenizer; convert or train it first if it is not there yet."""
    done = run.has_tokenizer
    distributed.wait()  # every process has looked before the first one writes
    if done:
        return VQTokenizer.load(run.tokenizer)
    partial = run.root / f".{run.tokenizer.name}.partial"  # where a training that was killed left its checkpoints
    first = distributed.rank() == 0
    if not config.tokenizer.path:
        train, held_out = open_images(config.data, "train"), open_images(config.data, "test")
        train_tokenizer(
            config.tokenizer.model,
            config.tokenizer.training,
            train,
            held_out,
            partial,
            config.seed,
            config.training.resolve_device(),
        )
        distributed.wait()
        if first:
            move_into_place(partial, run.tokenizer)
    elif first:
        convert_tokenizer(config.tokenizer.path, config.tokenizer.arch, run.tokenizer)
    distributed.wait()
    return VQTokenizer.load(run.tokenizer)


def prepare_tokens(
    config: RunConfig, run: RunDirectory, tokenizer: VQTokenizer
) -> tuple[TokenDataset, TokenDataset | None]:
    """Open the token shards for training and the held-out ones, if any; encode the images first if need be."""
    if not config.data.tokens and not all(
        (run.tokens / split / MANIFEST_FILE).is_file() for split in ("train", "test")
    ):
        prepare_splits(config.data, tokenizer, run.tokens, seed=config.seed)
        if distributed.rank() == 0:
            for line in describe_skipped(run.tokens):
                print(line, flush=True)
    train = open_tokens(config, run, "train")
    assert train is not None
    remedy = f"remove {run.tokens} and resume, to encode the images again"
    check_tokenizer(train.manifest, tokenizer, train.location, remedy)
    return train, open_tokens(config, run, "test")


def build_trainer(
    config: RunConfig,
    run: RunDirectory,
    tokenizer: VQTokenizer,
    train: TokenDataset,
    held_out: TokenDataset | None,
) -> Trainer:
    """A trainer whose network has fresh weights, keyed by the seed, or those of ``config.init_from``."""
    network = build_network(config, train.manifest, tokenizer)
    if config.init_from and CheckpointStore(run.checkpoints).latest() is None:
        source, manifest = load_pipeline(config.init_from), train.manifest
        account = warm_start(network, source, config.init_from, manifest.tokenizer_hash, manifest.class_names)
        if distributed.rank() == 0:
            write_file(run.warm_start, account.markdown())
            print(f"{account}: {run.warm_start}", flush=True)
    objective, training = build_objective(config.objective), config.training
    monitor = TrainingMonitor(objective, tokenizer, train, held_out, config.sampling, training.steps, config.seed)
    return Trainer(training, objective, network, train, held_out, run, config.seed, monitor)
