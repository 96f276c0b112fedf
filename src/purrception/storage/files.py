"""Files and folders that appear under their names whole or not at all, whatever kills the writer."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from purrception.errors import InputError
from purrception.storage.locks import LOCK_FILE, locked

REFUSALS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
        errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    }
)  # fmt: skip
"""What a disk answers where it will not have a file."""
LONGEST_NAME = 255
"""Bytes of a file's name, on every usual file system."""
OF_RUST = re.compile(r"os error (\d+)")
"""How safetensors tells the number of an error of the system."""


def plain_name(text: object, where: object) -> str:
    """A name that a file gives for another beside it: that of a file, never a way to another folder.

    Args:
        text: the name.
        where: the file or address that gives it, for the error.

    Raises:
        InputError: it is empty, no text, or has a folder in it.
    """
    if not isinstance(text, str) or not is_plain_name(text):
        raise InputError(
            f"{where} names the file {text!r:.300}; accepted are plain file names, of files beside it"
        )
    return text


def is_plain_name(text: str) -> bool:
    """Whether a text can only be the name of something in a folder, on every usual file system."""
    leads_elsewhere = text in ("", ".", "..") or bool(set(text) & set("/\\"))
    return not leads_elsewhere and text.isprintable() and len(text.encode()) <= LONGEST_NAME


def cannot_write(error: BaseException) -> str:
    """Why the system did not write, in its own words; empty where ``error`` is about something else."""
    found = OF_RUST.search(str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    return os.strerror(number) if number in REFUSALS else ""


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file that appears under its name only when every byte is on the disk; text in UTF-8.

    Raises:
        InputError: the disk is full, or will not have it; what was there before stays.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to; when the block ends it is synced and takes that name.

    Raises:
        InputError: the disk is full, or will not have it; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _explain(error, path)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder beside ``path`` to write to; when the block ends it is synced and takes that name.

    One process at a time: a second one is refused. What a killed one left is removed by the next.

    Args:
        path: the folder's name.
        replace: whether a folder that is already there gives way; otherwise it must be unused.

    Raises:
        InputError: there is something already, another process writes it, or the disk is full; nothing is left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _explain(error, path)
        raise
    with locked(partial, path):
        try:
            if not replace and not is_unused(path):
                raise InputError(
                    f"{path} is already there and not empty: choose another folder, or remove this one"
                )
            for leftover in partial.iterdir():
                if leftover.name != LOCK_FILE:
                    _remove(leftover)
            yield partial
            for file in (*partial.rglob("*"), partial):
                sync(file)
            if path.exists():
                _remove(path.rename(path.with_name(f".{path.name}.replaced")))
            os.rename(partial, path)
            (path / LOCK_FILE).unlink()
            sync(path.parent)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            _explain(error, path)
            raise


def is_unused(folder: Path) -> bool:
    """Whether a folder is not there yet, or holds nothing but the lock of whoever looks."""
    return not folder.exists() or (folder.is_dir() and all(path.name == LOCK_FILE for path in folder.iterdir()))


def sync(path: Path) -> None:
    """Have a file or folder on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _explain(error: BaseException, path: Path) -> None:
    """Raise what a person should read where a disk refused; other errors stay as they are."""
    reason = "" if isinstance(error, InputError) else cannot_write(error)
    if reason:
        raise InputError(
            f"cannot write {path} ({reason}); what was there before is kept: make room, or choose another place, "
            "and run the same command again"
        ) from error
