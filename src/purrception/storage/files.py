"""Files and folders that appear under their names whole or not at all, whatever kills the writer."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from purrception.utils.errors import InputError

REFUSALS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
    }
)
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
        partial.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to; when the block ends it is synced and takes that name.

    Each process has a place of its own: of several that write the same file, the last one's is there, whole.

    Raises:
        InputError: the disk is full, or will not have it; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            yield partial
            put(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def put(partial: Path, path: Path) -> None:
    """Give a file or folder that is written its name, once it is on the disk."""
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line; one that a kill has cut before it is ended first, so that only that one is lost.

    Raises:
        InputError: the disk is full, or will not have it; the lines before stay as they are.
    """
    with writing(path), path.open("a+b", buffering=0) as stream:
        stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
        whole = stream.read(1) in (b"", b"\n")
    append(path, (("" if whole else "\n") + line + "\n").encode(errors="backslashreplace"))


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, all of it or nothing.

    Raises:
        InputError: the disk is full, or will not have it; the file stays as it was.
    """
    with writing(path), path.open("ab", buffering=0) as stream:
        end, left = stream.seek(0, os.SEEK_END), memoryview(content)
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError:
            stream.truncate(end)
            raise


def sync(path: Path) -> None:
    """Have a file or folder on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of ``path``: where the disk refuses it, a line says so; other errors pass as they are.

    Raises:
        InputError: the disk is full, or will not have it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = cannot_write(error)
        elsewhere = getattr(error, "filename", None)  # a file that was read meanwhile is none of this
        if not reason or (
            elsewhere and path.parent.resolve() not in Path(os.fsdecode(elsewhere)).resolve().parents
        ):
            raise
        raise InputError(
            f"cannot write {path} ({reason}); what was there before is kept: make room, or choose another place, "
            "and run the same command again"
        ) from error
