"""The main job: from a configuration to a trained pipeline, each stage skipped when it is already done."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from purrception.data import open_images
from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.experiment.saved_run import check_change, describe_jump, saved_config
from purrception.experiment.warm_start import WarmStart, warm_start
from purrception.flow import SamplingConfig, build_objective
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.sampler import sample_together
from purrception.instruments.training_monitor import Watch
from purrception.models import PurrceptionTransformer, categorical_heads, check_kernel
from purrception.storage import dump_settings, load_settings, move_into_place, one_writer, whole_folder, write_file
from purrception.storage.hub import HUB_PREFIX, local_folder
from purrception.storage.pipeline_folder import SAMPLING, write_companions
from purrception.tokenizers import VQTokenizer, convert_tokenizer, open_tokenizer, train_tokenizer
from purrception.tokens import (
    MANIFEST_FILE,
    Manifest,
    TokenDataset,
    TokenStore,
    describe_skipped,
    prepare_splits,
)
from purrception.training import CheckpointStore, RunDirectory, Trainer
from purrception.training.loop import Glance, Look
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.folders import absolute
from purrception.utils.visualisation import tile_images

GRID_ROWS = 8


def start_run(config: RunConfig) -> RunDirectory:
    """Make the run directory and do everything in it, alone or with the other processes of ``torchrun``.

    When ``torchrun`` starts its processes again, they go on with what they had begun.

    Raises:
        InputError: a run is already there, or the configuration does not fit the data.
    """
    config = map_paths(config, absolute)
    root = Path(config.runs) / config.name
    with distributed.joined(config.training.resolve_device(), config.training.timeout_minutes):
        if distributed.restarted() and _is_run_of(config, root):
            return resume_run(root)
        check_config(config)
        distributed.wait()  # every process has looked before the first one writes
        with one_writer(root):
            if distributed.rank() == 0:
                RunDirectory.create(root, dump_settings(config))
            distributed.wait()
            return _complete(config, RunDirectory(root))


def _is_run_of(config: RunConfig, root: Path) -> bool:
    file = RunDirectory(root).config_file
    return file.is_file() and load_config(file) == config


def check_config(config: RunConfig, tokenizer: VQTokenizer | None = None) -> None:
    """Refuse what would fail later, before anything is written or trained.

    Args:
        config: of the run.
        tokenizer: what encodes its images; default: what the configuration says.
    """
    build_objective(config.objective).check_evidence(config.head.evidence)
    if config.head.kind not in categorical_heads():
        raise InputError(
            f"head.kind names the vocabulary head of objectives with a posterior; given {config.head.kind!r}, "
            f"accepted {', '.join(categorical_heads())}: others take the head they need by themselves"
        )
    check_kernel(config.training.head_kernel, config.training.resolve_device())
    if config.init_from and not config.init_from.startswith(HUB_PREFIX) and not Path(config.init_from).is_dir():
        raise InputError(f"init_from is a run or a pipeline to start from; there is none at {config.init_from}")
    class_names, grid = _check_tokens(config) if config.data.tokens else _check_images(config, tokenizer)
    if not class_names and config.sampling.guidance_scale != 1:
        raise InputError(
            f"these images have no classes, hence nothing to guide by; given sampling.guidance "
            f"{config.sampling.guidance_scale}, accepted 1"
        )
    config.network.tokens(grid)


def _check_images(config: RunConfig, tokenizer: VQTokenizer | None) -> tuple[tuple[str, ...], tuple[int, int]]:
    """Class names and grid of the images, if they and the tokenizer fit each other."""
    images = open_images(config.data, "train")
    if len(images) == 0:
        raise InputError("there are no training images: lower data.test_fraction or add images")
    if config.tokenizer.arch and not config.tokenizer.path and tokenizer is None:
        raise InputError(
            f"this run takes the public tokenizer {config.tokenizer.arch}: give its checkpoint or converted "
            "folder with --tokenizer.path, or see what would happen with --dry-run"
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
    _check_hash(manifest, tokenizer, location, "give that one as tokenizer.path")
    return manifest.class_names, manifest.grid


def _check_hash(manifest: Manifest, tokenizer: VQTokenizer, location: Path | str, remedy: str) -> None:
    if manifest.tokenizer_hash != tokenizer.fingerprint:
        raise InputError(f"the token shards in {location} were made with another tokenizer: {remedy}")


def resume_run(root: Path | str, config: RunConfig | None = None) -> RunDirectory:
    """Go on with a run from whatever stage it had reached.

    Args:
        root: the run directory.
        config: its configuration, with changes in ``training``, ``sampling`` or ``evaluation`` only.

    Raises:
        InputError: no run is there, or the change concerns what has already been built.
    """
    run = RunDirectory.open(root)
    saved = saved_config(run)
    training = (config or saved).training
    with distributed.joined(training.resolve_device(), training.timeout_minutes), one_writer(run.root):
        if config is not None and config != saved:
            _change_config(run, saved, config)
        return _complete(config or saved, run)


def _change_config(run: RunDirectory, saved: RunConfig, config: RunConfig) -> None:
    """Let a run go on under another configuration, if what it has built allows it."""
    check_change(saved, config)
    check_config(config)
    distributed.wait()
    if distributed.rank() == 0:
        latest = CheckpointStore(run.checkpoints).latest()
        if jump := describe_jump(saved, config, latest.state.step if latest else 0):
            print(jump, flush=True)
        write_file(run.config_file, dump_settings(config))


def _complete(config: RunConfig, run: RunDirectory) -> RunDirectory:
    """Tokenizer → token shards → training → pipeline."""
    tokenizer = prepare_tokenizer(config, run)
    train, held_out = prepare_tokens(config, run, tokenizer)
    trainer = build_trainer(config, run, tokenizer, train, held_out)
    first = distributed.rank() == 0
    trainer.resume()
    if trainer.state.step < config.training.steps and first:
        # A pipeline of a shorter training would outlive a kill; until the new one, samples come from checkpoints.
        shutil.rmtree(run.pipeline, ignore_errors=True)
    trainer.fit()
    averaged = trainer.averaged()
    if first and not run.pipeline.exists():
        pipeline = make_pipeline(config, tokenizer, train.manifest, averaged)
        with whole_folder(run.pipeline) as partial:
            pipeline.save_pretrained(partial)
    elif first:  # a resumed run may sample otherwise
        write_companions(sampling_companion(config), run.pipeline)
    distributed.wait()
    return run


def build_trainer(
    config: RunConfig,
    run: RunDirectory,
    tokenizer: VQTokenizer,
    train: TokenDataset,
    held_out: TokenDataset | None,
) -> Trainer:
    """A trainer with freshly initialised weights, keyed by the seed."""
    network = build_network(config, train.manifest, tokenizer)
    if config.init_from and CheckpointStore(run.checkpoints).latest() is None:
        start_from(config.init_from, network, train.manifest, run)
    objective = build_objective(config.objective)
    look = _look(config, tokenizer, train, held_out)
    return Trainer(config.training, objective, network, train, held_out, run, config.seed, look)


def build_network(config: RunConfig, manifest: Manifest, tokenizer: VQTokenizer) -> PurrceptionTransformer:
    """A network for these tokens, holding the codebook: standardised, unless the run takes it as it is.

    Shards hold indices and what was measured of them, so that the same ones serve both.
    """
    objective = build_objective(config.objective)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PurrceptionTransformer(
            grid=manifest.grid,
            codebook_size=manifest.codebook_size,
            codebook_dim=manifest.codebook_dim,
            num_classes=manifest.num_classes,
            input_channels=manifest.codebook_dim + objective.extra_channels,
            **dataclasses.asdict(config.network),
            head_kind="regression" if objective.head_family == "regression" else config.head.kind,
            head_rank=config.head.rank,
            evidence=config.head.evidence,
            token_embedding=objective.token_embedding,
        )
    codebook = tokenizer.codebook
    network.set_codebook(manifest.standardisation.apply(codebook) if config.tokenizer.standardise else codebook)
    return network


def start_from(source: str, network: PurrceptionTransformer, manifest: Manifest, run: RunDirectory) -> WarmStart:
    """Give a new network the weights of another pipeline, as far as they fit, and record what became of each.

    Raises:
        InputError: there is no such pipeline, or nothing of it fits.
    """
    account = warm_start(network, load_pipeline(source), source, manifest.tokenizer_hash, manifest.class_names)
    if distributed.rank() == 0:
        write_file(run.warm_start, account.markdown())
        print(f"{account}: {run.warm_start}", flush=True)
    return account


def make_pipeline(
    config: RunConfig, tokenizer: VQTokenizer, manifest: Manifest, network: PurrceptionTransformer
) -> PurrceptionPipeline:
    """A pipeline around trained weights, with the run's way to sample."""
    pipeline = PurrceptionPipeline(
        transformer=network,
        vqvae=tokenizer.vq,
        objective=config.objective.name,
        tokenizer_hash=manifest.tokenizer_hash,
        class_names=list(manifest.class_names),
    )
    pipeline.companions = sampling_companion(config)
    return pipeline


def sampling_companion(config: RunConfig) -> dict[str, bytes]:
    """The file that tells how a run samples, as far as its objective can, to those who have its pipeline alone."""
    settings = build_objective(config.objective).supported(config.sampling)
    return {SAMPLING: dump_settings(settings).encode()}


def load_pipeline(path: Path | str) -> PurrceptionPipeline:
    """The pipeline of a folder, a run (an unfinished one's latest checkpoint) or ``hub:owner/name``.

    Raises:
        InputError: there is neither, or its parts are damaged or do not belong together.
    """
    if str(path).startswith(HUB_PREFIX):
        return PurrceptionPipeline.from_pretrained(path)
    path = Path(path)
    if (path / "model_index.json").is_file():
        return PurrceptionPipeline.from_pretrained(path)
    run = RunDirectory.open(path)
    if run.pipeline.is_dir():
        return PurrceptionPipeline.from_pretrained(run.pipeline)
    config = saved_config(run)
    checkpoint = CheckpointStore(run.checkpoints).latest_whole()
    if checkpoint is None:
        raise InputError(f"the run {path} has no checkpoint yet: let it train, or --resume it")
    tokenizer = VQTokenizer.load(run.tokenizer)
    manifest = Manifest.read(_token_location(config, run, "train"))
    network = build_network(config, manifest, tokenizer)
    checkpoint.load_network(network, ema=True)
    return make_pipeline(config, tokenizer, manifest, network)


def sampling_defaults(path: Path | str) -> SamplingConfig:
    """The sampling settings of a run or pipeline, as far as its objective can honour them.

    Those of the run's configuration come first, also for the pipeline folder in a run; then those that lie beside
    a pipeline's weights; then the defaults.
    """
    folder = local_folder(path) if str(path).startswith(HUB_PREFIX) else Path(path)
    for root in (folder, folder.parent):
        if RunDirectory(root).config_file.is_file():
            config = load_config(RunDirectory(root).config_file)
            return build_objective(config.objective).supported(config.sampling)
    return load_settings(SamplingConfig, folder / SAMPLING) if (folder / SAMPLING).is_file() else SamplingConfig()


def prepare_tokenizer(config: RunConfig, run: RunDirectory) -> VQTokenizer:
    """The run's tokenizer: loaded, or else converted or trained and then moved into place whole."""
    done = (run.tokenizer / "config.json").is_file()
    distributed.wait()  # every process has looked before the first one writes
    if done:
        return VQTokenizer.load(run.tokenizer)
    partial = run.root / f".{run.tokenizer.name}.partial"  # a killed training left its checkpoints in it
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
    """The run's token shards, encoded where they are not there yet; (training, held out or none)."""
    if not config.data.tokens and not all(
        (run.tokens(split) / MANIFEST_FILE).is_file() for split in ("train", "test")
    ):
        prepare_splits(config.data, tokenizer, run.root / "tokens", seed=config.seed)
        if distributed.rank() == 0:
            for line in describe_skipped(run.root / "tokens"):
                print(line, flush=True)
    train = open_tokens(config, run, "train")
    assert train is not None
    remedy = f"remove {run.root / 'tokens'} and resume, to encode the images again"
    _check_hash(train.manifest, tokenizer, train.location, remedy)
    return train, open_tokens(config, run, "test")


def open_tokens(config: RunConfig, run: RunDirectory, split: str) -> TokenDataset | None:
    """The shards of a split that a run trains on, its own or prepared ones; ``None`` where nothing is held out.

    Shards at an fsspec address are kept below the user's cache, for all runs.
    """
    location = _token_location(config, run, split)
    if split == "test" and TokenStore(location).fetch(MANIFEST_FILE) is None:
        return None
    return TokenDataset(location)


def _token_location(config: RunConfig, run: RunDirectory, split: str) -> Path | str:
    return f"{config.data.tokens.rstrip('/')}/{split}" if config.data.tokens else run.tokens(split)


def _look(config: RunConfig, tokenizer: VQTokenizer, train: TokenDataset, held_out: TokenDataset | None) -> Look:
    """Samples from the same noise every time, a column per class, and what they and the posterior give away."""
    classes = train.manifest.num_classes
    columns = min(classes, 10) or GRID_ROWS
    labels = torch.arange(columns).repeat(GRID_ROWS) % max(classes, 1)
    objective = build_objective(config.objective)
    settings = objective.supported(
        dataclasses.replace(config.sampling, num_inference_steps=min(config.sampling.num_inference_steps, 25))
    )
    watch = Watch(objective, train, held_out, config.training.steps, config.seed)

    def look(step: int, network: PurrceptionTransformer) -> Glance:
        made = sample_together(network, objective, labels, settings, config.seed, batch_size=len(labels))
        images = tokenizer.decode_images(made.indices)
        picture = tile_images(images, columns=columns, scale=max(1, 64 // images.shape[1]))
        seen = watch.look(step, network, made.indices, labels)
        return Glance(picture, seen.figures, seen.warnings)

    return look
