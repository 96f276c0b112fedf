"""Files that appear under their names completely or not at all, even if the writer is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from purrception.utils.errors import InputError

REFUSALS = (
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # no room, or a broken disk
    | {errno.EROFS, errno.EACCES, errno.EPERM}  # not allowed
    | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}  # an impossible name
)
"""The errors with which a file system refuses to write."""
LONGEST_NAME = 255
"""The longest file name, in bytes, on all common file systems."""
RUST_ERROR = re.compile(r"os error (\d+)")
"""How safetensors, which is written in Rust, reports the number of a system error."""


def plain_name(text: object, where: object) -> str:
    """Check that the name which one file gives for another is a plain file name, and return it.

    Args:
        text: the name.
        where: the file or address that gives it, for the error.

    Raises:
        InputError: it is empty, not text, or a path.
    """
    if not isinstance(text, str) or not is_plain_name(text):
        raise InputError(
            f"{where} names the file {text!r:.300}; accepted are plain file names, of files beside it"
        )
    return text


def is_plain_name(text: str) -> bool:
    """Whether text is a file name on all common file systems, and not a path."""
    is_path = text in ("", ".", "..") or bool(set(text) & set("/\\"))
    return not is_path and text.isprintable() and len(text.encode()) <= LONGEST_NAME


def disk_error(error: BaseException) -> str:
    """Why the file system refused to write; empty if ``error`` is about something else."""
    found = RUST_ERROR.search(str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    return os.strerror(number) if number in REFUSALS else ""


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file, which replaces an existing one only when every byte is on the disk; text is in UTF-8.

    Raises:
        InputError: the disk is full or refuses the file; an existing file stays.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends, the file is synced and renamed to ``path``.

    Each process has its own temporary path: if several write the same file, the last one's remains, complete.

    Raises:
        InputError: the disk is full or refuses the file; an existing file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            yield partial
            move_into_place(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def move_into_place(partial: Path, path: Path) -> None:
    """Sync a temporary file or folder and rename it to ``path``."""
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line; if the last line was cut off when a process was killed, end that one first.

    Raises:
        InputError: the disk is full or refuses the line; the earlier lines stay as they are.
    """
    with writing(path), path.open("a+b", buffering=0) as stream:
        stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
        is_complete = stream.read(1) in (b"", b"\n")
    append(path, (("" if is_complete else "\n") + line + "\n").encode(errors="backslashreplace"))


def append(path: Path, content: bytes) -> None:
    """Append all of the content to a file, or nothing.

    Raises:
        InputError: the disk is full or refuses the content; the file stays as it was.
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
    """Wait until a file or folder is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, or a folder with its contents."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of ``path``: turns the disk's refusals into one line; other errors pass unchanged.

    Raises:
        InputError: the disk is full or refuses to write.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = disk_error(error)
        elsewhere = getattr(error, "filename", None)  # the error may be about a file that was read
        if not reason or (
            elsewhere and path.parent.resolve() not in Path(os.fsdecode(elsewhere)).resolve().parents
        ):
            raise
        raise InputError(
            f"cannot write {path} ({reason}); an existing file is kept: make room, or choose another place, "
            "and run the same command again"
        ) from error
