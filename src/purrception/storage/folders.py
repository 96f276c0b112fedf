"""Folders that appear under their names whole or not at all, and the folder that a command's output goes to."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from purrception.storage.files import cannot_write, remove, sync, writing
from purrception.storage.locks import BEGUN, LOCK_FILE, TakenError, is_held, locked, remove_empty
from purrception.utils import distributed
from purrception.utils.errors import InputError


@contextlib.contextmanager
def whole_folder(
    path: Path, *, replace: bool = False, keep: bool = False, patience: float | None = None
) -> Iterator[Path]:
    """An empty folder beside ``path`` to write to; when the block ends it is synced and takes that name.

    One process at a time: a second one is refused. Inside the block the same process may ask again, for the same
    folder. What a killed one left is removed by the next.

    Args:
        path: the folder's name.
        replace: whether a folder that is already there gives way; otherwise it must be unused.
        keep: whether what is there takes the name, too, when the block ends by an error other than a disk's.
        patience: seconds to wait for another process; default: a few.

    Raises:
        TakenError: there is something already, or another process writes it.
        InputError: the disk is full, or will not have it; nothing is left.
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
        except FileNotFoundError as error:  # where no folders are made at all, as below /proc
            raise InputError(f"cannot make the folder {path} ({error.strerror})") from error
        stack.enter_context(locked(partial, path, patience))
        try:
            if not replace and not is_unused(path):
                raise TakenError(
                    f"{path} is already there and not empty: choose another folder, or remove this one"
                )
            for leftover in partial.iterdir():
                if leftover.name != LOCK_FILE:
                    remove(leftover)
            yield partial
            _put_folder(partial, path)
        except BaseException as error:
            if keep and not cannot_write(error) and not is_unused(partial):
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
    """Whether a folder is not there yet, or holds only locks and what a killed writer had begun of a file.

    Args:
        folder: where to look.
        but: names of files that may be there as well.
    """
    nothing = {LOCK_FILE, *but}
    return not folder.exists() or (
        folder.is_dir()
        and all(
            path.name in nothing or (BEGUN.fullmatch(path.name) and path.is_file()) for path in folder.iterdir()
        )
    )


def unused_folder(folder: Path) -> Path:
    """``folder``, which must not be there yet, or be empty; it is not created, so that a failure leaves nothing.

    Raises:
        InputError: it already holds something; nothing is overwritten.
    """
    if not is_unused(folder):
        raise InputError(f"{folder} is already there and not empty: choose another folder with --out")
    return folder


@contextlib.contextmanager
def output_folder(out: str, parent: Path, *, keep: bool = False) -> Iterator[Path]:
    """The folder that a person asked for, or else the next free number in ``parent``, for the length of a block.

    No other process takes it meanwhile. It is there when the block has ended, with what was written to it by
    :func:`whole_folder`, whole; where an error ends the block, it is not. Every process of ``torchrun`` enters.

    Args:
        out: what was asked for; empty: nothing in particular.
        parent: of ``000``, ``001``, …
        keep: see :func:`whole_folder`.

    Raises:
        InputError: it already holds something, or another process writes to it.
    """
    with contextlib.ExitStack() as stack:
        folder, problem = Path(out), ""
        if distributed.rank() == 0:
            try:
                if out:
                    stack.enter_context(whole_folder(unused_folder(folder), keep=keep))
                else:
                    folder = _next_number(parent, stack, keep)
            except InputError as error:
                problem = str(error)
        folder, problem = distributed.gather((folder, problem))[0]
        if problem:
            raise InputError(problem)
        yield folder


def _next_number(parent: Path, stack: contextlib.ExitStack, keep: bool) -> Path:
    """The first number beyond those that are there whose folder nobody else is writing, and which we now are."""
    taken = [int(path.name) for path in parent.glob("*") if re.fullmatch(r"\d{3,}", path.name)]
    number = max(taken, default=-1) + 1
    while True:
        folder = parent / f"{number:03d}"
        try:
            stack.enter_context(whole_folder(folder, keep=keep, patience=0))
        except TakenError:
            number += 1
        else:
            return folder
