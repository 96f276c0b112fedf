"""Weight files that others wrote: their tensors, read without running any code, and every one accounted for."""

from __future__ import annotations

import collections
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from purrception.storage import plain_name, plain_reason, read_json, write_file
from purrception.utils.errors import InputError
from purrception.utils.progress import note

NAMES_LISTED = 12
"""Tensor names that an error lists before it only counts."""
WRAPPERS = re.compile(r"(?:^|(?<=\.))((?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)")
"""What DataParallel, ``torch.compile``, FSDP and checkpointing put into the names of a network's tensors."""
FIRST_STAGE = "first_stage_model."
"""Where a latent diffusion model's checkpoint holds its tokenizer."""
VARIANT = re.compile(r"diffusion_pytorch_model(?:\.([a-z]\w*))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""diffusers' weight files; the group is their variant."""
MOST_MADE = 2**26
"""Numbers that a model may make for itself, such as positions, beside those of its files."""


class _Inert:
    """Stands for every class and function of a pickle that is not a tensor's: keeps nothing, does nothing."""

    def __new__(cls, *args: object, **options: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        """Forget the arguments."""

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
    """Finds what tensors are made of; whatever else a file names is never imported, and becomes inert."""

    def find_class(self, module: str, name: str) -> Any:
        return _TENSOR_PARTS.get((module, name), _Inert)


_TENSORS_ONLY = SimpleNamespace(
    __name__="tensors_only",
    Unpickler=_TensorUnpickler,
    load=lambda file, **options: _TensorUnpickler(file, **options).load(),
)


def read_weights(path: Path | str) -> Any:
    """What a ``.safetensors`` file or a checkpoint of ``torch.save`` holds; its tensors stay on disk until used.

    Checkpoints often hold more than tensors: Lightning's callbacks, OmegaConf's nodes, an argparse namespace.
    torch's ``weights_only`` refuses such a file whole. Here they become inert placeholders, so that the tensors
    can be read, and nothing that the file names is imported or called.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, cut short, or no weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        is_zip = zipfile.is_zipfile(path)  # a file of torch before 1.6 is none
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
    """The named tensors of a file's content: of the first of ``keys`` that it has, or of itself.

    Raises:
        InputError: there are none.
    """
    held = [key for key in keys if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    if len(held) > 1:
        note(f"{Path(path).name} holds {' and '.join(held)}: {held[0]} is taken")
    place = content[held[0]] if held else content
    found = place.items() if isinstance(place, Mapping) else ()
    tensors = {str(name): value for name, value in found if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no named tensors, neither plainly nor under {' or '.join(keys)}")
    for name, tensor in tensors.items():  # one that repeats a few numbers could be of any size
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path} is damaged: {name} is to hold {tensor.numel()} numbers, and stores fewer")
    return _unwrapped(tensors, path)


def _unwrapped(tensors: dict[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Tensors under their network's own names: those that wrappers and a larger model put before them go."""
    names = {name: WRAPPERS.sub("", name) for name in tensors}
    stripped = {mark for name in tensors for mark in WRAPPERS.findall(name)}
    if any(name.startswith(FIRST_STAGE) for name in names.values()):  # the rest are other networks'
        names = {old: new.removeprefix(FIRST_STAGE) for old, new in names.items() if new.startswith(FIRST_STAGE)}
        stripped.add(FIRST_STAGE)
    if len(set(names.values())) < len(names):
        raise InputError(f"{path} holds tensors whose names differ by {', '.join(sorted(stripped))} alone")
    if stripped:
        note(f"{Path(path).name}: {', '.join(sorted(stripped))} is left out of the names of {len(names)} tensors")
    return {new: tensors[old] for old, new in names.items()}


def only_variant(folder: Path) -> str | None:
    """The one variant, such as fp16, of diffusers' weights in a folder that holds none without."""
    found = [VARIANT.fullmatch(path.name) for path in folder.glob("diffusion_pytorch_model*")]
    variants = {match[1] for match in found if match}
    return variants.pop() if len(variants) == 1 else None


def check_variant(variant: str | None) -> None:
    """Refuse a variant that is no part of a file's name.

    Raises:
        InputError: it has anything but letters, digits and underscores, or does not begin with a letter.
    """
    if variant and not re.fullmatch(r"[a-z]\w{0,31}", variant, re.ASCII):
        raise InputError(f"a variant is a word such as bf16, part of the weight files' names; given {variant!r}")


def holds_variant(folder: Path, variant: str | None) -> bool:
    """Whether a folder holds diffusers' weights of that variant."""
    found = (VARIANT.fullmatch(path.name) for path in folder.glob("diffusion_pytorch_model*"))
    return any(match and match[1] == variant for match in found)


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no value is NaN or infinite: a scalar on their device, so that nothing waits for it."""
    return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()


def require_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights among which there are NaN or infinite values; what is no floating-point number passes.

    Args:
        tensors: by name.
        where: the file, folder or object that they are of, for the error.

    Raises:
        InputError: it names the tensors, and how many of their values are not finite.
    """
    floats = {
        name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.is_meta
    }
    # A sum reads each value once and keeps nothing; it is finite unless a value is not, or it overflows.
    suspects = {name: tensor for name, tensor in floats.items() if not tensor.detach().sum().isfinite()}
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in suspects.items()}
    bad = [f"{name} ({count} of {suspects[name].numel()})" for name, count in counts.items() if count]
    if bad:
        raise InputError(
            f"{where} holds values that are NaN or infinite, in {_listed(bad)}: the file is damaged, or its "
            "training diverged; take another"
        )


def check_codes(codebook: Tensor, where: object) -> None:
    """Refuse codes ``[K, D]`` so large that their squared length, which distances are made of, is no float32.

    Raises:
        InputError: it says how many there are.
    """
    if codebook.is_meta:
        return
    endless = int((~codebook.detach().float().square().sum(-1).isfinite()).sum())
    if endless:
        raise InputError(
            f"{where} holds codes whose squared length overflows float32, {endless} of {len(codebook)}: the file "
            "is damaged, or its training diverged; take another"
        )


def check_size(folder: Path, build: Callable[[], nn.Module]) -> None:
    """Refuse a model that is to hold more numbers than its weight files have bytes, before it takes memory.

    Args:
        folder: of its weight files.
        build: makes it; called where tensors take no memory.

    Raises:
        InputError: it would be larger than its files, or the index of its files names others.
    """
    for index in folder.glob("*.index*.json"):
        listed: _WeightIndex = read_json(index, _WeightIndex, "an index of weight files")
        for name in set(listed.weight_map.values()):
            if not (folder / plain_name(name, index)).is_file():
                raise InputError(f"{folder / name} is missing: {index} lists it")
    with torch.device("meta"):
        model = build()
    held = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    needed = sum(tensor.numel() for tensor in model.state_dict().values())
    made = sum(buffer.numel() for buffer in model.buffers())
    if needed > held or made > held + MOST_MADE:
        raise InputError(
            f"its configuration asks for {max(needed, made)} numbers, and its weight files have {held} bytes: "
            "they do not belong together"
        )


def forget_place(config: Path) -> None:
    """Take out of a saved configuration the folder that its model was loaded from, which is nobody's business.

    Raises:
        InputError: the disk is full.
    """
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None) is not None:
        write_file(config, json.dumps(values, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class _WeightIndex:
    """Which of several files holds a tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class Account:
    """How the tensors of a file stand to those that a network needs; names are the file's."""

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    misshapen: tuple[str, ...]
    dropped: tuple[str, ...]
    """Known, and of no use to the network: losses, discriminators, bookkeeping."""

    @property
    def settled(self) -> bool:
        """Whether every tensor has its place."""
        return not (self.missing or self.left_over or self.misshapen)

    def __str__(self) -> str:
        """What is wrong, in one line."""
        kinds = {"missing": self.missing, "left over": self.left_over, "of another shape": self.misshapen}
        return "; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names)


def account_for(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    is_known: Callable[[str], bool] = lambda name: False,
) -> Account:
    """Compare a file with a network, by name and shape.

    Args:
        tensors: the file's, by its names.
        names: the file's name for each name of the network.
        shapes: of the network, by its names. A 1×1 convolution may stand for a linear map.
        is_known: whether a tensor that the network has no use for may be dropped.
    """
    extra = sorted(set(tensors) - set(names.values()))
    misshapen = [
        f"{source} {list(tensors[source].shape)}, expected {list(shapes[target])}"
        for target, source in names.items()
        if source in tensors and tensors[source].shape not in (shapes[target], (*shapes[target], 1, 1))
    ]
    return Account(
        missing=tuple(sorted(set(names.values()) - set(tensors))),
        left_over=tuple(name for name in extra if not is_known(name)),
        misshapen=tuple(misshapen),
        dropped=tuple(name for name in extra if is_known(name)),
    )


def renamed(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], shapes: Mapping[str, torch.Size], path: Path | str
) -> dict[str, Tensor]:
    """A settled account's tensors under the network's names and in its shapes, float32.

    Raises:
        InputError: one of them is not finite.
    """
    require_finite({source: tensors[source] for source in names.values()}, path)
    return {target: tensors[source].float().reshape(shapes[target]) for target, source in names.items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return ", ".join(names[:NAMES_LISTED]) + more
