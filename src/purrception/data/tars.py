"""Reading the members of a tar, even a damaged one: a wrong header loses only its own member."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from purrception.data.labels import Label
from purrception.storage import LimitedReads
from purrception.utils.errors import InputError

BLOCK = tarfile.BLOCKSIZE
LARGEST_HEADER = 2**16
"""The largest extended header (pax), in bytes; names and times take a few hundred."""
CUT = "the tar ends within it"
SPARSE = "it is stored as a sparse file: pack it without that option of tar"


@dataclass(frozen=True)
class Member:
    """A file in a tar, or the place of one whose header is lost."""

    name: str
    """The name in the header; empty where the header is lost."""
    offset: int
    """Where its content begins, in bytes."""
    size: int
    """The size of its content in bytes; all of it is in the tar unless ``damage`` says otherwise."""
    damage: str = ""
    """Why its content cannot be read; empty where it can."""
    label: Label = None
    """The label of an image, which another file gives."""


def walk_tar(path: str) -> Iterator[Member]:
    """The files of an uncompressed tar in order, with a lost one for every gap between them that is not empty.

    After an unusable header the next good one is searched for, block by block, so that damage loses only the
    members that it hits. Every step moves forward, and nothing is read beyond the end of the tar.

    Raises:
        InputError: the tar cannot be opened, or is empty.
    """
    try:
        size = os.path.getsize(path)
        stream = LimitedReads(path, LARGEST_HEADER)
    except OSError as error:
        raise InputError(f"cannot read the tar {path}: {error.strerror or error}") from error
    if size == 0:
        raise InputError(f"cannot read the tar {path}: empty file")
    with stream:
        archive, place, end = None, 0, 0
        while True:
            try:
                if archive is None:
                    stream.seek(place)
                    archive = tarfile.TarFile(fileobj=stream, ignore_zeros=True)
                info = archive.next()
            except Exception:  # damage raises errors of every kind
                archive, place = None, max(place + BLOCK, stream.tell() // BLOCK * BLOCK)
                if place < size:
                    continue
                info = None
            start = info.offset if info else size
            if start > end and _holds_data(path, end, start):
                yield Member("", end, 0, "its header in the tar is damaged")
            if info is None or archive is None:
                return
            archive.members.clear()  # type: ignore[attr-defined]
            whole = info.offset_data <= archive.offset <= max(size, info.offset_data)
            if info.isreg():
                kept = min(max(info.size, 0), max(size - info.offset_data, 0))
                damage = SPARSE if info.issparse() else "" if kept == info.size else CUT
                yield Member(info.name, info.offset_data, kept, damage)
            # A member may claim more bytes than there are, or fewer than none; others may still follow it.
            end, place = (archive.offset, archive.offset) if whole else (size, info.offset_data)
            archive = archive if whole else None


def _holds_data(path: str, start: int, stop: int) -> bool:
    with open(path, "rb") as stream:
        stream.seek(start)
        for _ in range(start, stop, 2**20):
            if stream.read(min(2**20, stop - stream.tell())).strip(b"\0"):
                return True
    return False


class Part(io.RawIOBase):
    """A part of an open file, read as if it were a file.

    Args:
        stream: the open file.
        start: the offset of the first byte.
        size: how many bytes the part has.
    """

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream, self._start, self._size, self._place = stream, start, size, 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset; returns the new one."""
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill a buffer with the next bytes; returns how many there were."""
        self._stream.seek(self._start + self._place)
        content = self._stream.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
