"""``purrception tokenizer convert``, ``train`` and ``report``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from purrception.cli.parsing import parse, parse_known, recipe_of, say, say_skipped, target_of
from purrception.cli.verbs import Verb
from purrception.utils.errors import InputError
from purrception.utils.settings import DeviceOptions
from purrception.utils.text import command_line

if TYPE_CHECKING:
    from purrception.data import DataConfig
    from purrception.experiment.config import RunConfig


@dataclass(frozen=True)
class ConvertOptions:
    """What ``purrception tokenizer convert`` takes."""

    arch: str = ""
    """What the file holds: vq-f4, vq-f8, vq-f8-n256, vq-f16, vqgan-imagenet-f16-1024, vqgan-imagenet-f16-16384,
    vq-ds8-c2i, vq-ds16-c2i or vq-ds16-t2i; leave it out for a diffusers VQModel, a folder or hub:OWNER/NAME."""
    out: str = ""
    """Folder for the tokenizer; default: tokenizers/ARCH, or the name of the source."""
    sha256: str = ""
    """Expected SHA-256 of the file, or its beginning; it is recorded in any case."""
    ema: bool = True
    """Take the moving average of the weights (ema) where a file holds it beside them (model)."""
    range: tuple[float, float] | None = None
    """What the network of a folder or the hub takes for black and white; default: 0 1 for aMUSEd's, else -1 1."""


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


@dataclass(frozen=True)
class TrainOptions:
    """What ``purrception tokenizer train`` takes besides the training's own options."""

    out: str = ""
    """Folder for the tokenizer; default: tokenizers/NAME."""
    init_from: str = ""
    """Folder of a tokenizer to go on from; its architecture is kept."""


def train(verb: Verb, arguments: list[str]) -> None:
    """Train a tokenizer by itself."""
    resume = arguments[:1] == ["--resume"]
    if resume and len(arguments) != 2:
        raise InputError(f"usage: purrception {verb.name} {verb.usage}; a resumed training keeps all its options")
    target, rest = (arguments[1], []) if resume else target_of(verb, arguments)
    from purrception.experiment.config import TokenizerRunConfig
    from purrception.experiment.recipes import fit_to_images
    from purrception.experiment.tokenizer_run import CONFIG_FILE, resume_tokenizer, start_tokenizer
    from purrception.storage import dump_settings, load_settings
    from purrception.tokenizers import VQConfig, VQTokenizer

    if resume:
        folder = Path(target)
        resume_tokenizer(folder)
        _say_done(folder, load_settings(TokenizerRunConfig, folder / CONFIG_FILE).data)
        return
    source = source_of(target)
    options, rest = (TrainOptions(), rest) if target == "--help" else parse_known(TrainOptions, verb, rest)
    start = VQTokenizer.load(options.init_from).vq if options.init_from else None
    model = source.tokenizer.model if start is None else VQConfig.of(start)
    default = TokenizerRunConfig(
        source.data, model, source.tokenizer.training, source.seed, init_from=options.init_from
    )
    config = parse(TokenizerRunConfig, verb, rest, default)
    if config.data.image_size == 0:  # the recipe folder leaves it open
        if start is None:
            fitted, choice = fit_to_images(source, config.data)
            default = replace(default, data=fitted.data, model=fitted.tokenizer.model)
        else:
            data = replace(source.data, image_size=start.config.sample_size, channels=start.config.in_channels)
            default, choice = replace(default, data=data), f"images of {data.image_size} pixels, as init_from has"
        say(choice)
        config, model = parse(TokenizerRunConfig, verb, rest, default), default.model
    if options.init_from and config.model != model:
        raise InputError("with --init-from the architecture is that of the tokenizer named: leave --model.… out")
    say(dump_settings(config))
    folder = Path(options.out or f"tokenizers/{source.name}")
    start_tokenizer(config, folder)
    _say_done(folder, config.data)


@dataclass(frozen=True, kw_only=True)
class ReportOptions(DeviceOptions):
    """What ``purrception tokenizer report`` takes besides ``--data.…``."""

    num: int = 1000
    """Most images that are judged."""
    batch_size: int = 64
    """Images at a time; it does not change the figures."""
    out: str = ""
    """Folder for the report; default: TOKENIZER/report/000, 001, …"""


def report(verb: Verb, arguments: list[str]) -> None:
    """Judge a tokenizer on images."""
    target, rest = target_of(verb, arguments)
    options, rest = parse_known(ReportOptions, verb, rest)
    source, rest = target_of(verb, rest)
    from purrception.data import describe_report
    from purrception.evaluation.tokenizer.report import report_tokenizer
    from purrception.experiment.config import DataOptions
    from purrception.storage import output_folder
    from purrception.tokenizers import VQTokenizer
    from purrception.tokenizers.training import psnr_history
    from purrception.training import RunDirectory
    from purrception.utils.devices import resolve_device
    from purrception.utils.packages import require
    from purrception.utils.terminal import for_terminal

    require("matplotlib", "the picture of a report")
    folder = Path(target)
    if not (folder / "config.json").is_file() and RunDirectory(folder).tokenizer.is_dir():
        folder = RunDirectory(folder).tokenizer
    tokenizer = VQTokenizer.load(folder)
    data = source_of(source).data
    if data.image_size == 0:  # the recipe folder leaves it open: as the tokenizer sees images
        data = replace(data, channels=tokenizer.image_channels, image_size=tokenizer.vq.config.sample_size)
    data = parse(DataOptions, verb, rest, DataOptions(data)).data
    tokenizer.vq.to(resolve_device(options.device))
    with output_folder(options.out, folder / "report") as out:
        history = psnr_history(folder)
        result = report_tokenizer(tokenizer, data, out, options.num, options.batch_size, history)
    say_skipped(describe_report(out))
    print(for_terminal(result.markdown()) + f"\n\nreport: {out}")


def source_of(target: str) -> RunConfig:
    """A recipe by name, a configuration file, or the recipe ``folder`` for images of any other source."""
    from purrception.data import find_source

    source, root = find_source(target)
    if source == "folder" and not Path(root).is_dir():
        return recipe_of(target)
    recipe = recipe_of("folder" if root else target)
    return replace(recipe, data=replace(recipe.data, source=source, root=root or recipe.data.root))


def _say_done(folder: Path, data: DataConfig) -> None:
    from purrception.data import name_source

    report = command_line(["tokenizer", "report", str(folder), name_source(data)])
    say(f"done: {folder}  (next: {report})")
