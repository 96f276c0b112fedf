"""``purrception tokenizer convert``, ``train`` and ``report``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from purrception.cli.parsing import (
    check_can_draw,
    flat,
    nearest_in,
    parse,
    remark,
    resumed,
    say,
    say_report,
    say_skipped,
    source_of,
    target_of,
)
from purrception.cli.verbs import Verb
from purrception.data.config import DataConfig
from purrception.experiment.config import DataOptions, RunConfig, TokenizerRunConfig
from purrception.experiment.recipes import fit_to_images
from purrception.storage.names import CONFIG_FILE
from purrception.tokenizers.settings import VQConfig
from purrception.training import RunDirectory
from purrception.utils.errors import InputError
from purrception.utils.settings import DeviceOptions
from purrception.utils.text import command_line


@dataclass(frozen=True)
class ConvertOptions:
    """What ``purrception tokenizer convert`` takes."""

    arch: str = ""
    """What the file holds: vq-f4, vq-f8, vq-f8-n256, vq-f16, vqgan-imagenet-f16-1024, vqgan-imagenet-f16-16384,
    vq-ds8-c2i, vq-ds16-c2i or vq-ds16-t2i; leave it out for a diffusers VQModel, a folder or hub:OWNER/NAME."""
    out: str = ""
    """Folder for the tokenizer. Default: tokenizers/ARCH, or the name of the source."""
    sha256: str = ""
    """Expected SHA-256 of the file, or its beginning; it is recorded in any case."""
    ema: bool = True
    """Take the moving average of the weights (ema) where a file holds it beside them (model)."""
    range: tuple[float, float] | None = None
    """What the network of a folder or the hub takes for black and white. Default: 0 1 for aMUSEd's, else -1 1."""


def convert(verb: Verb, arguments: list[str]) -> None:
    """Convert a public checkpoint into a tokenizer."""
    target, rest = target_of(verb, arguments)
    options = parse(ConvertOptions, verb, rest)
    from purrception.storage import unused_folder
    from purrception.tokenizers import convert_tokenizer

    name = options.arch.replace("_", "-") or Path(target).name
    folder = unused_folder(Path(options.out or f"tokenizers/{name}"))
    made = convert_tokenizer(target, options.arch, folder, options.sha256, options.ema, options.range)
    size, dim = made.codebook.shape
    print(f"{size} codes of {dim} dimensions, a code for {made.downsampling}×{made.downsampling} pixels: {folder}")
    following = {"data.root": "IMAGES", "tokenizer.path": str(folder)}
    print(f"(next: {command_line(['train', 'folder'], following)})")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What ``purrception tokenizer train`` takes."""

    resume: str = ""
    """The folder of a training to go on with, in place of a recipe; it keeps all its settings."""
    out: str = ""
    """Folder for the tokenizer. Default: tokenizers/NAME."""
    tokenizer: TokenizerRunConfig = field(default_factory=TokenizerRunConfig, metadata=flat(own="the recipe's"))


def train(verb: Verb, arguments: list[str]) -> None:
    """Train a tokenizer by itself."""
    to_resume, rest = resumed(verb, arguments)
    if to_resume:
        if rest:
            raise InputError(f"a resumed training keeps all its options: leave {' '.join(rest)} out")
        _resume(Path(to_resume))
        return
    target, rest = target_of(verb, arguments)
    options = parse(TrainOptions, verb, rest, _defaults(source_of(target)) if target else None)
    config, default = _fitted(verb, target, rest, options)
    if config.init_from and config.model != default.model:
        raise InputError("with --init-from the architecture is that of the tokenizer named: leave --model.… out")
    from purrception.experiment.summary import summarise_tokenizer
    from purrception.experiment.tokenizer_run import start_tokenizer

    folder = Path(options.out or f"tokenizers/{source_of(target).name}")
    remark(summarise_tokenizer(config, folder, rest))
    start_tokenizer(config, folder)
    _say_done(folder, config.data)


def _resume(folder: Path) -> None:
    from purrception.experiment.tokenizer_run import CONFIG_FILE, resume_tokenizer
    from purrception.storage import load_settings

    resume_tokenizer(folder)
    _say_done(folder, load_settings(TokenizerRunConfig, folder / CONFIG_FILE).data)


def _defaults(source: RunConfig, model: VQConfig | None = None) -> TrainOptions:
    """The settings of a recipe for its tokenizer, or for one of another architecture."""
    of_recipe = source.tokenizer
    architecture = model or of_recipe.model
    return TrainOptions(tokenizer=TokenizerRunConfig(source.data, architecture, of_recipe.training, source.seed))


def _fitted(
    verb: Verb, target: str, arguments: list[str], options: TrainOptions
) -> tuple[TokenizerRunConfig, TokenizerRunConfig]:
    """The settings of a training, and those it would have with nothing given.

    They are the recipe's, or those of the tokenizer to start from; where a recipe leaves sizes open, they are
    chosen from the images, and told.
    """
    source, start, choice = source_of(target), None, ""
    if options.tokenizer.init_from:
        from purrception.tokenizers import VQTokenizer

        start = VQTokenizer.load(options.tokenizer.init_from).vq
    if options.tokenizer.data.image_size == 0 and start is None:
        source, choice = fit_to_images(source, options.tokenizer.data)
    elif options.tokenizer.data.image_size == 0 and start is not None:
        data = replace(source.data, image_size=start.config.sample_size, channels=start.config.in_channels)
        source, choice = replace(source, data=data), f"images of {data.image_size} pixels, as init_from has"
    if choice:
        remark(choice)
    default = _defaults(source, None if start is None else VQConfig.of(start))
    return parse(TrainOptions, verb, arguments, default).tokenizer, default.tokenizer


@dataclass(frozen=True, kw_only=True)
class ReportOptions(DeviceOptions):
    """What ``purrception tokenizer report`` takes."""

    num: int = 1000
    """Most images that are judged."""
    batch_size: int = 64
    """Images at a time; it does not change the figures."""
    out: str = ""
    """Folder for the report. Default: TOKENIZER/report/000, 001, …"""
    images: DataOptions = field(default_factory=DataOptions, metadata=flat(own="the recipe's"))


def report(verb: Verb, arguments: list[str]) -> None:
    """Judge a tokenizer on images."""
    target, rest = target_of(verb, arguments)
    source, rest = target_of(verb, rest)
    if not source:
        parse(ReportOptions, verb, rest)  # which gives help
    recipe = source_of(source)
    options = parse(ReportOptions, verb, rest, ReportOptions(images=DataOptions(recipe.data)))
    folder = Path(target)
    if not (folder / CONFIG_FILE).is_file() and RunDirectory(folder).has_tokenizer:
        folder = RunDirectory(folder).tokenizer
    if not folder.exists():
        raise InputError(f"no tokenizer at {target}: {nearest_in(target)}expected its folder, or that of a run")
    from purrception.data import describe_report
    from purrception.evaluation.tokenizer.report import report_tokenizer
    from purrception.storage import output_folder
    from purrception.tokenizers import VQTokenizer
    from purrception.tokenizers.training import psnr_history
    from purrception.utils.devices import resolve_device

    check_can_draw()
    tokenizer = VQTokenizer.load(folder)
    if recipe.data.image_size == 0:  # the recipe folder leaves it open: as the tokenizer sees images
        held_out = fit_to_images(recipe, options.images.data)[0].data.test_fraction  # as in training
        size = {"channels": tokenizer.image_channels, "image_size": tokenizer.vq.config.sample_size}
        seen = ReportOptions(images=DataOptions(replace(recipe.data, test_fraction=held_out, **size)))
        options = parse(ReportOptions, verb, rest, seen)
    tokenizer.vq.to(resolve_device(options.device))
    with output_folder(options.out, folder / "report") as out:
        history = psnr_history(folder)
        result = report_tokenizer(tokenizer, options.images.data, out, options.num, options.batch_size, history)
    say_skipped(describe_report(out))
    say_report(result.markdown(), out)


def _say_done(folder: Path, data: DataConfig) -> None:
    from purrception.data import name_source

    report = command_line(["tokenizer", "report", str(folder), name_source(data)])
    say(f"done: {folder}  (next: {report})")
