"""Folders that diffusers saves a model to: the variants of its weights, and whether its size is plausible."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from purrception.storage.files import plain_name, write_file
from purrception.storage.readers import read_json
from purrception.utils.errors import InputError

WEIGHTS_FILE = re.compile(r"diffusion_pytorch_model(?:\.([a-z]\w*))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""Names of diffusers' weight files; the group is their variant."""
MOST_COMPUTED = 2**26
"""Numbers that a model may compute when it is built, such as positions, beyond those in its files."""


@dataclass(frozen=True)
class _WeightIndex:
    """Which of several files holds a tensor."""

    weight_map: dict[str, str]


def variants_in(folder: Path) -> set[str | None]:
    """The variants of diffusers' weights in a folder; ``None`` stands for weights without one."""
    found = map(WEIGHTS_FILE.fullmatch, (path.name for path in folder.glob("diffusion_pytorch_model*")))
    return {match[1] for match in found if match}


def only_variant(folder: Path) -> str | None:
    """The variant, such as fp16, of a folder whose weights all have the same one."""
    found = variants_in(folder)
    return found.pop() if len(found) == 1 else None


def check_variant(variant: str | None) -> None:
    """Refuse a variant that cannot be part of a weight file's name.

    Raises:
        InputError: it has anything but letters, digits and underscores, or does not begin with a letter.
    """
    if variant and not re.fullmatch(r"[a-z]\w{0,31}", variant, re.ASCII):
        raise InputError(f"a variant is a word such as bf16, part of the weight files' names; given {variant!r}")


def check_size(folder: Path, build: Callable[[], nn.Module]) -> None:
    """Refuse a model whose configuration asks for more numbers than its weight files have bytes.

    Args:
        folder: where its weight files are.
        build: builds the model; called on the meta device, where tensors take no memory.

    Raises:
        InputError: the model is larger than its files, or a file that their index lists is missing.
    """
    for index in folder.glob("*.index*.json"):
        content: _WeightIndex = read_json(index, _WeightIndex, "an index of weight files")
        for name in set(content.weight_map.values()):
            if not (folder / plain_name(name, index)).is_file():
                raise InputError(f"{folder / name} is missing: {index} lists it")
    with torch.device("meta"):
        model = build()
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    needed = sum(tensor.numel() for tensor in model.state_dict().values())
    computed = sum(buffer.numel() for buffer in model.buffers())
    if needed > stored or computed > stored + MOST_COMPUTED:
        raise InputError(
            f"its configuration asks for {max(needed, computed)} numbers, and its weight files have {stored} "
            "bytes: they do not belong together"
        )


def forget_load_path(config: Path) -> None:
    """Remove from a saved configuration the path that its model was loaded from, which is private.

    Raises:
        InputError: the disk is full.
    """
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None) is not None:
        write_file(config, json.dumps(values, indent=2, sort_keys=True) + "\n")
