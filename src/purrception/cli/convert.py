"""``purrception convert``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb
from purrception.utils.errors import InputError
from purrception.utils.text import command_line


@dataclass(frozen=True)
class ConvertOptions:
    """What ``purrception convert`` takes."""

    tokenizer: str = ""
    """The tokenizer it was trained with: a folder, hub:OWNER/NAME, or a file with --arch. Required."""
    arch: str = ""
    """What a tokenizer's file holds; see purrception tokenizer convert."""
    objective: str = ""
    """Objective of the checkpoint: purrception, cfm, cfm-endpoint or dfm. Default: as hparams.json beside it, or
    the shapes, say."""
    heads: int = 0
    """Number of attention heads; 0: as hparams.json beside the checkpoint or the published sizes say."""
    ema: bool = True
    """Take the moving average of the weights, where there is one."""
    out: str = ""
    """Folder for the pipeline. Default: pipelines/NAME."""


def convert(verb: Verb, arguments: list[str]) -> None:
    """Convert a checkpoint of the public implementation into a pipeline."""
    target, rest = target_of(verb, arguments)
    options = parse(ConvertOptions, verb, rest)
    if not options.tokenizer:
        raise InputError("give the tokenizer that the checkpoint was trained with: --tokenizer DIR")
    from purrception.generation.public_checkpoints import convert_public_checkpoint
    from purrception.storage import unused_folder, whole_folder
    from purrception.storage.pipeline_folder import SCHEDULER
    from purrception.tokenizers import open_tokenizer

    folder = unused_folder(Path(options.out or f"pipelines/{Path(target).stem}"))
    tokenizer = open_tokenizer(options.tokenizer, options.arch)
    pipeline = convert_public_checkpoint(target, tokenizer, options.objective, options.heads, options.ema)
    with whole_folder(folder) as partial:
        pipeline.save_pretrained(partial)
    print(f"a pipeline of {pipeline.config.objective}: {folder}  (next: {command_line(['sample', str(folder)])})")
    print(f"its settings, those of the public sampler: {folder / SCHEDULER}; options given to sample win")
    if pipeline.transformer.num_classes:
        print("guidance needs a null class that was trained; the public training configurations do not train it")
