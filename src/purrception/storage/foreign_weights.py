"""Weight files from elsewhere: reading their tensors without running code, and accounting for every one."""

from __future__ import annotations

import collections
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from purrception.storage.finite import listed, require_finite
from purrception.storage.readers import plain_reason
from purrception.utils.errors import InputError
from purrception.utils.progress import note

WRAPPERS = re.compile(r"(?:^|(?<=\.))((?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)")
"""Prefixes that DataParallel, ``torch.compile``, FSDP and activation checkpointing add to tensor names."""
FIRST_STAGE = "first_stage_model."
"""The prefix of the tokenizer's tensors in the checkpoint of a latent diffusion model."""


class _Inert:
    """Takes the place of every class and function in a pickle that tensors do not need; it does nothing."""

    def __new__(cls, *args: object, **options: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        """Ignore the arguments."""

    def _nothing(self, *args: object, **options: object) -> _Inert:
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = _nothing


_TENSOR_PARTS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    **{("torch", str(kind).split(".")[1]): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)},
}


class _TensorUnpickler(pickle.Unpickler):
    """Resolves only what tensors are made of; any other name in the file is never imported and becomes inert."""

    def find_class(self, module: str, name: str) -> Any:
        return _TENSOR_PARTS.get((module, name), _Inert)


_TENSORS_ONLY = SimpleNamespace(
    __name__="tensors_only",
    Unpickler=_TensorUnpickler,
    load=lambda file, **options: _TensorUnpickler(file, **options).load(),
)


def read_weights(path: Path | str) -> Any:
    """The content of a ``.safetensors`` file or of a ``torch.save`` checkpoint, whose tensors are memory-mapped.

    Checkpoints often hold more than tensors: Lightning's callbacks, OmegaConf's nodes, an argparse namespace.
    torch's ``weights_only`` refuses such a file altogether. Here those objects become inert placeholders: the
    tensors can be read, and nothing that the file names is imported or called.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, truncated, or not a weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        is_zip = zipfile.is_zipfile(path)  # files of torch before 1.6 are not
        try:
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
        except pickle.UnpicklingError:
            if not is_zip:
                raise
            return torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=_TENSORS_ONLY)
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = plain_reason(error)
        raise InputError(
            f"cannot read {path}: expected .safetensors or a checkpoint of torch.save, whole; {reason}"
        ) from error


def tensors_in(content: Any, keys: Sequence[str], path: Path | str) -> dict[str, Tensor]:
    """The named tensors in a file's content: those under the first of ``keys`` that it has, or its own.

    Raises:
        InputError: there are no named tensors.
    """
    present = [key for key in keys if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    if len(present) > 1:
        note(f"{Path(path).name} holds {' and '.join(present)}: {present[0]} is used")
    content = content[present[0]] if present else content
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no named tensors, neither plainly nor under {' or '.join(keys)}")
    for name, tensor in tensors.items():  # one that repeats a few numbers could claim any size
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path} is damaged: {name} claims {tensor.numel()} numbers and stores fewer")
    return _unwrapped(tensors, path)


def _unwrapped(tensors: dict[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Tensors under their network's own names, without the prefixes of wrappers and of a larger model."""
    names = {name: WRAPPERS.sub("", name) for name in tensors}
    stripped = {mark for name in tensors for mark in WRAPPERS.findall(name)}
    if any(name.startswith(FIRST_STAGE) for name in names.values()):  # the others belong to other networks
        names = {old: new.removeprefix(FIRST_STAGE) for old, new in names.items() if new.startswith(FIRST_STAGE)}
        stripped.add(FIRST_STAGE)
    if len(set(names.values())) < len(names):
        raise InputError(f"{path} holds tensors whose names differ only by {', '.join(sorted(stripped))}")
    if stripped:
        note(f"{Path(path).name}: {', '.join(sorted(stripped))} is left out of the names of {len(names)} tensors")
    return {new: tensors[old] for old, new in names.items()}


def account_for(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    is_known: Callable[[str], bool] = lambda name: False,
) -> tuple[str, tuple[str, ...]]:
    """Compare the tensors of a file with those of a network, by name and shape.

    Args:
        tensors: those of the file, by its names.
        names: the file's name for each name of the network.
        shapes: the network's, by its names. A 1×1 convolution may take the place of a linear map.
        is_known: whether a tensor that the network does not need may be dropped.

    Returns:
        What is wrong, in one line by the file's names, empty where every tensor is accounted for; and the tensors
        that are known and not needed: those of losses, discriminators and bookkeeping.
    """
    extra = sorted(set(tensors) - set(names.values()))
    misshapen = [
        f"{source} {list(tensors[source].shape)}, expected {list(shapes[target])}"
        for target, source in names.items()
        if source in tensors and tensors[source].shape not in (shapes[target], (*shapes[target], 1, 1))
    ]
    wrong = {
        "missing": sorted(set(names.values()) - set(tensors)),
        "left over": [name for name in extra if not is_known(name)],
        "of another shape": misshapen,
    }
    problem = "; ".join(f"{kind}: {listed(found)}" for kind, found in wrong.items() if found)
    return problem, tuple(filter(is_known, extra))


def renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], shapes: Mapping[str, torch.Size], path: Path | str
) -> dict[str, Tensor]:
    """Tensors that are all accounted for, under the network's names and in its shapes, float32.

    Raises:
        InputError: a value is not finite.
    """
    require_finite({source: tensors[source] for source in names.values()}, path)
    return {target: tensors[source].float().reshape(shapes[target]) for target, source in names.items()}
