"""Checkpoints that are damaged: kept, and in the way of none that is whole."""

from __future__ import annotations

import os
from pathlib import Path

from purrception.storage.files import remove
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import note

DAMAGED_PREFIX = "damaged-"


def set_aside(checkpoint: Path, reason: str) -> None:
    """Rename a damaged checkpoint, so that it is neither taken again nor counted; every process takes part."""
    aside = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}")
    note(f"warning: {reason}. It is kept as {aside}, and training goes on from the checkpoint before it")
    if distributed.rank() == 0:
        if aside.exists():
            remove(aside)
        os.rename(checkpoint, aside)


def refuse_to_begin_anew(folder: Path, reason: str = "") -> None:
    """Refuse to start from nothing where there are checkpoints, none of which can be used.

    Args:
        folder: of the checkpoints.
        reason: what is wrong with one of them.

    Raises:
        InputError: it is so.
    """
    left = sorted(path.name for path in folder.glob("*step-*") if path.name[0] != ".")
    if left:
        raise InputError(
            f"none of the checkpoints in {folder} can be used ({', '.join(left)}{reason and f': {reason}'}): "
            "bring back one that is whole, or remove that folder to train from the beginning"
        )
