"""Refusing weights with values that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from purrception.utils.errors import InputError

NAMES_LISTED = 12
"""How many tensor names an error lists before it only counts the others."""


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no value is NaN or infinite, as a scalar on the tensors' device, so that nothing waits for it."""
    return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()


def require_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights with NaN or infinite values; tensors of whole numbers pass.

    Args:
        tensors: the weights by name.
        where: the file, folder or object that they belong to, for the error.

    Raises:
        InputError: it names the tensors, and how many of their values are not finite.
    """
    floats = {
        name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.is_meta
    }
    # A sum reads each value once and stores nothing; it is finite unless a value is not, or it overflows.
    suspects = {name: tensor for name, tensor in floats.items() if not tensor.detach().sum().isfinite()}
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in suspects.items()}
    bad = [f"{name} ({count} of {suspects[name].numel()})" for name, count in counts.items() if count]
    if bad:
        raise InputError(
            f"{where} holds values that are NaN or infinite, in {listed(bad)}: the file is damaged, or its "
            "training diverged; take another"
        )


def check_codes(codebook: Tensor, where: object) -> None:
    """Refuse codes ``[K, D]`` whose squared length, which distances are computed from, overflows float32.

    Raises:
        InputError: it says how many there are.
    """
    if codebook.is_meta:
        return
    overflowing = int((~codebook.detach().float().square().sum(-1).isfinite()).sum())
    if overflowing:
        raise InputError(
            f"{where} holds codes whose squared length overflows float32, {overflowing} of {len(codebook)}: the "
            "file is damaged, or its training diverged; take another"
        )


def listed(names: Iterable[str]) -> str:
    """The first of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return ", ".join(names[:NAMES_LISTED]) + more
