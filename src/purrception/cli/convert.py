"""What others trained → ours, on the command line. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from purrception.cli.parsing import Verb, parse, target_of
from purrception.utils.errors import InputError
from purrception.utils.terminal import command_line

T = TypeVar("T")


@dataclass(frozen=True)
class TokenizerOptions:
    """What ``purrception tokenizer convert`` takes."""

    arch: str = ""
    """What the file holds: vq-f4, vq-f8, vq-f8-n256, vq-f16, vqgan-imagenet-f16-1024, vqgan-imagenet-f16-16384,
    vq-ds8-c2i, vq-ds16-c2i or vq-ds16-t2i; leave it out for a diffusers VQModel, a folder or hub:OWNER/NAME."""
    out: str = ""
    """Folder for the tokenizer; default: tokenizers/ARCH, or the name of the source."""
    sha256: str = ""
    """What the file's SHA-256 must be, or begin with; it is recorded in any case."""
    ema: bool = True
    """Take the moving average (ema) where a file holds it beside the weights (model)."""
    range: tuple[float, float] | None = None
    """What the network of a folder or the hub takes for black and white; default: 0 1 for aMUSEd's, else -1 1."""


@dataclass(frozen=True)
class CheckpointOptions:
    """What ``purrception convert`` takes."""

    tokenizer: str = ""
    """The tokenizer it was trained with: a folder, hub:OWNER/NAME, or a file with --arch."""
    arch: str = ""
    """What a tokenizer's file holds; see ``purrception tokenizer convert``."""
    objective: str = ""
    """purrception, cfm, cfm-endpoint or dfm; default: as hparams.json beside the checkpoint or the shapes say."""
    heads: int = 0
    """Attention heads; 0: as hparams.json beside the checkpoint or the published sizes say."""
    ema: bool = True
    """Take the moving average of the weights, where there is one."""
    out: str = ""
    """Folder for the pipeline; default: pipelines/NAME."""


def convert_tokenizer(arguments: list[str]) -> None:
    """``purrception tokenizer convert``: a public checkpoint → a tokenizer."""
    from purrception.cli.tokenizer import TOKENIZER_VERBS

    target, options = _parsed(TokenizerOptions, TOKENIZER_VERBS["convert"], arguments)
    from purrception.storage import unused_folder
    from purrception.tokenizers import convert_tokenizer as convert_file

    name = options.arch.replace("_", "-") or Path(target).name
    folder = unused_folder(Path(options.out or f"tokenizers/{name}"))
    made = convert_file(target, options.arch, folder, options.sha256, options.ema, options.range)
    size, dim = made.codebook.shape
    print(f"{size} codes of {dim} dimensions, a code for {made.downsampling}×{made.downsampling} pixels: {folder}")
    following = {"data.root": "IMAGES", "tokenizer.path": str(folder)}
    print(f"(next: {command_line(['train', 'folder'], following)})")


def convert(arguments: list[str]) -> None:
    """``purrception convert``: a checkpoint of the public implementation → a pipeline."""
    from purrception.cli import VERBS

    target, options = _parsed(CheckpointOptions, VERBS["convert"], arguments)
    if not options.tokenizer:
        raise InputError("give the tokenizer that the checkpoint was trained with: --tokenizer DIR")
    from purrception.generation.public_checkpoints import migrate
    from purrception.storage import unused_folder, whole_folder
    from purrception.storage.hub import SAMPLING
    from purrception.tokenizers import open_tokenizer

    folder = unused_folder(Path(options.out or f"pipelines/{Path(target).stem}"))
    tokenizer = open_tokenizer(options.tokenizer, options.arch)
    pipeline = migrate(target, tokenizer, options.objective, options.heads, options.ema)
    with whole_folder(folder) as partial:
        pipeline.save_pretrained(partial)
    print(f"a pipeline of {pipeline.config.objective}: {folder}  (next: {command_line(['sample', str(folder)])})")
    print(f"its settings, those of the public sampler: {folder / SAMPLING}; options given to sample win")
    if pipeline.transformer.num_classes:
        print("guidance needs a null class that was trained; the public training configurations do not train it")


def _parsed(kind: type[T], verb: Verb, arguments: list[str]) -> tuple[str, T]:
    target, rest = target_of(verb, arguments)
    return target, parse(kind, verb, rest)
