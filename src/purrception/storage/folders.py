"""Folders that appear under their names completely or not at all, and the folder for a command's output."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from purrception.storage.files import disk_error, remove, sync, writing
from purrception.storage.locks import (
    LOCK_FILE,
    PARTIAL,
    TakenError,
    entered_by_the_first,
    is_held,
    locked,
    remove_empty,
)
from purrception.utils.errors import InputError


@contextlib.contextmanager
def whole_folder(path: Path, *, keep: bool = False, patience: float | None = None) -> Iterator[Path]:
    """An empty temporary folder to write to; when the block ends, it is synced and renamed to ``path``.

    Only one process may write a folder; a second one is refused. Inside the block the same process may ask for the
    same folder again. What a killed process left behind is removed by the next one.

    Args:
        path: the final path of the folder, which must be unused.
        keep: whether to keep what has been written when an error other than the disk's ends the block.
        patience: how many seconds to wait for another process; by default a few.

    Raises:
        TakenError: the folder is not empty, or another process is writing it.
        InputError: the disk is full or refuses the folder; nothing is left.
    """
    path = path.resolve() if path.is_symlink() else path
    partial = path.with_name(f".{path.name}.partial")
    if is_held(partial):
        yield partial
        return
    new = [folder for folder in partial.parents if not folder.exists()]
    with writing(path), contextlib.ExitStack() as stack:
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # where no folders can be created, such as below /proc
            raise InputError(f"cannot make the folder {path} ({error.strerror})") from error
        stack.enter_context(locked(partial, path, patience))
        try:
            if not is_unused(path):
                raise TakenError(
                    f"{path} is already there and not empty: choose another folder, or remove this one"
                )
            for leftover in partial.iterdir():
                if leftover.name != LOCK_FILE:
                    remove(leftover)
            yield partial
            _put_folder(partial, path)
        except BaseException as error:
            if keep and not disk_error(error) and not is_unused(partial):
                _put_folder(partial, path)
            shutil.rmtree(partial, ignore_errors=True)
            remove_empty(new)
            raise


def _put_folder(partial: Path, path: Path) -> None:
    for file in (*partial.rglob("*"), partial):
        sync(file)
    before = path.with_name(f".{path.name}.before")
    if before.exists():
        remove(before)
    if path.exists():
        path.rename(before)
    os.rename(partial, path)
    (path / LOCK_FILE).unlink()
    sync(path.parent)
    if before.exists():
        remove(before)


def is_unused(folder: Path, but: Iterable[str] = ()) -> bool:
    """Whether a folder does not exist, or has only a lock and unfinished files of a killed writer.

    Args:
        folder: the folder.
        but: names of other files that may be there.
    """
    ignored = {LOCK_FILE, *but}
    return not folder.exists() or (
        folder.is_dir()
        and all(
            path.name in ignored or (PARTIAL.fullmatch(path.name) and path.is_file()) for path in folder.iterdir()
        )
    )


def unused_folder(folder: Path) -> Path:
    """Check that ``folder`` does not exist or is empty, and return it; it is not created.

    Raises:
        InputError: the folder is not empty.
    """
    if not is_unused(folder):
        raise InputError(f"{folder} is already there and not empty: choose another folder with --out")
    return folder


@contextlib.contextmanager
def output_folder(out: str, parent: Path, *, keep: bool = False) -> Iterator[Path]:
    """The folder that the user asked for, or else the next free number in ``parent``, reserved within the block.

    What is written to it within the block by :func:`whole_folder` appears when the block ends; if an error ends
    the block, nothing does. Every process of ``torchrun`` enters.

    Args:
        out: the folder that was asked for; empty for the next number.
        parent: the folder of ``000``, ``001``, …
        keep: see :func:`whole_folder`.

    Raises:
        InputError: the folder is not empty, or another process is writing to it.
    """
    with entered_by_the_first(_reserved(out, parent, keep), Path(out or parent)) as folder:
        yield folder


@contextlib.contextmanager
def _reserved(out: str, parent: Path, keep: bool) -> Iterator[Path]:
    """``out`` or, if it is empty, the first number after the existing ones that no other process is writing."""
    if out:
        with whole_folder(unused_folder(Path(out)), keep=keep):
            yield Path(out)
        return
    taken = [int(path.name) for path in parent.glob("*") if re.fullmatch(r"\d{3,}", path.name)]
    with contextlib.ExitStack() as stack:
        for number in itertools.count(max(taken, default=-1) + 1):
            folder = parent / f"{number:03d}"
            with contextlib.suppress(TakenError):
                stack.enter_context(whole_folder(folder, keep=keep, patience=0))
                break
        yield folder
