"""Training a tokenizer on its own: starting and resuming."""

from __future__ import annotations

from pathlib import Path

import torch

from purrception.data import describe_report, open_images
from purrception.experiment.config import TokenizerRunConfig, map_paths
from purrception.storage import dump_settings, load_settings, one_writer, unused_folder, write_file
from purrception.tokenizers import VQTokenizer, train_tokenizer
from purrception.utils import distributed
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError, resumable
from purrception.utils.folders import absolute
from purrception.utils.text import command_line

CONFIG_FILE = "training.yaml"


def start_tokenizer(config: TokenizerRunConfig, folder: Path) -> VQTokenizer:
    """Train a tokenizer in ``folder``, in one process or in all processes of ``torchrun``.

    Args:
        config: written to ``training.yaml`` in the folder, beside the tokenizer.
        folder: must be empty or not there yet.

    Raises:
        InputError: the folder is not empty, the configuration does not fit the images, or the disk is full; see
            :func:`train_tokenizer`.
    """
    config = map_paths(config, absolute)
    with distributed.joined(resolve_device(config.device), config.timeout_minutes) as device:
        unused_folder(folder)
        config.model.build(config.data.channels, config.data.image_size)
        config.training.check(config.model, config.data.image_size)
        open_images(config.data, "train")
        content = dump_settings(config)
        with one_writer(folder):
            unused_folder(folder)
            distributed.wait()  # every process has looked before the first one writes
            if distributed.rank() == 0:
                write_file(folder / CONFIG_FILE, content)
            return _train(config, folder, device)


def resume_tokenizer(folder: Path) -> VQTokenizer:
    """Resume the training in ``folder`` from its last checkpoint; if it is finished, load the tokenizer.

    Raises:
        InputError: there is no training, or its checkpoint is damaged.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"no training of a tokenizer at {folder}: expected a folder with {CONFIG_FILE}")
    config = load_settings(TokenizerRunConfig, folder / CONFIG_FILE)
    if (folder / "config.json").is_file():
        return VQTokenizer.load(folder)
    with distributed.joined(resolve_device(config.device), config.timeout_minutes) as device, one_writer(folder):
        return _train(config, folder, device)


def _train(config: TokenizerRunConfig, folder: Path, device: torch.device) -> VQTokenizer:
    with resumable(f"go on with: {command_line(['tokenizer', 'train', '--resume', str(folder)])}"):
        tokenizer = train_tokenizer(
            config.model,
            config.training,
            open_images(config.data, "train"),
            open_images(config.data, "test"),
            folder,
            config.seed,
            device,
            VQTokenizer.load(config.init_from) if config.init_from else None,
            config.decoder_only,
        )
    if distributed.rank() == 0 and (skipped := describe_report(folder)):
        print(f"images: {skipped}", flush=True)
    return tokenizer
