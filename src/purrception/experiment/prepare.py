"""``purrception prepare``: encodes images to a folder of token shards that training reads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from purrception.data import DataConfig, describe_report
from purrception.experiment.settings import PrepareOptions
from purrception.storage import read_json
from purrception.tokenizers import open_tokenizer
from purrception.tokens import SUMMARY_FILE, EncodingConfig, prepare_splits
from purrception.utils import distributed
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError, resumable
from purrception.utils.text import command_line


def prepare(data: DataConfig, options: PrepareOptions) -> str:
    """Encode images, with as many channels as the tokenizer has.

    Returns:
        A summary to print; empty in all processes but the first.

    Raises:
        InputError: the images, the tokenizer or the folder cannot be used; see ``write_tokens``.
    """
    if not options.tokenizer or not options.out:
        raise InputError("prepare needs a tokenizer and a folder for the shards: give --tokenizer DIR --out DIR")
    tokenizer = open_tokenizer(options.tokenizer, options.arch)
    if data.image_size % tokenizer.downsampling:
        raise InputError(
            f"--image-size must be a multiple of the tokenizer's downsampling {tokenizer.downsampling}; "
            f"given {data.image_size}"
        )
    data = replace(data, channels=tokenizer.image_channels)
    config = EncodingConfig(options.images_per_shard, options.batch_size, options.workers, options.strict)
    folder = Path(options.out)
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        tokenizer.vq.to(device)
        with resumable(f"the same command goes on with {folder}"):
            made = prepare_splits(data, tokenizer, folder, config, seed=options.seed)
        lines = [_describe(folder / split, split in made) for split in ("train", "test")]
        first = distributed.rank() == 0
    arch = {"tokenizer.arch": options.arch} if options.arch else {}
    settings = {"data.tokens": str(folder), "tokenizer.path": options.tokenizer, **arch}
    hint = f"next: {command_line(['train', 'RECIPE'], settings)}"
    return "\n".join([*filter(None, lines), hint]) if first else ""


def _describe(folder: Path, made: bool) -> str:
    skipped = describe_report(folder)
    if not made:
        return f"{folder}: no images held out, {skipped}" if skipped else ""
    file = folder / SUMMARY_FILE
    summary: dict[str, float] = read_json(file, dict[str, float], "the summary of a preparation")
    rates = ("images_per_second_and_process", "share_outside_encoder")
    speed, outside = (summary.get(name, math.nan) for name in rates)
    return (
        f"{folder}: {summary.get('rows', 0):.0f} rows of {summary.get('images', 0):.0f} "
        f"images{skipped and f', {skipped}'}; {speed:.1f} images/s and process, {outside:.1%} of the time outside "
        "the encoder"
    )
