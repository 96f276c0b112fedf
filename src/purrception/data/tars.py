"""The members of a tar, whatever is damaged in it: a header that lies loses its own member only."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from purrception.storage import LimitedReads
from purrception.utils.errors import InputError

BLOCK = tarfile.BLOCKSIZE
LARGEST_HEADER = 2**16
"""Bytes of an extended header (pax), of which names and times take a few hundred."""
CUT = "the tar ends within it"
SPARSE = "it is stored as a sparse file, with holes: no image is, pack it as it is"


@dataclass(frozen=True)
class Found:
    """A file in a tar, or the place of one whose header is lost."""

    name: str
    """As the header has it; empty where that is lost."""
    offset: int
    """Of its content, bytes."""
    size: int
    """Bytes of its content, all of them in the tar unless ``damage`` says otherwise."""
    damage: str = ""
    """Why its content cannot be had."""


def walk_tar(path: str) -> Iterator[Found]:
    """Files of an uncompressed tar in order, and a lost one for every gap between them that is not empty.

    After a header that cannot be used the next good one is looked for, block by block: damage loses what it hits.
    Every step goes forward, and no more is read than the tar has.

    Raises:
        InputError: it cannot be opened, or is empty.
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
                yield Found("", end, 0, "its header in the tar is damaged")
            if info is None or archive is None:
                return
            archive.members.clear()  # type: ignore[attr-defined]
            whole = info.offset_data <= archive.offset <= max(size, info.offset_data)
            if info.isreg():
                kept = min(max(info.size, 0), max(size - info.offset_data, 0))
                damage = SPARSE if info.issparse() else "" if kept == info.size else CUT
                yield Found(info.name, info.offset_data, kept, damage)
            # Behind a member that claims more than there is, or less than nothing, others may follow all the same.
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
    """A part of an open file as a file of its own.

    Args:
        stream: the file.
        start: first byte.
        size: bytes.
    """

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream, self._start, self._size, self._place = stream, start, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, as of any file."""
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill a buffer as far as there is content."""
        self._stream.seek(self._start + self._place)
        content = self._stream.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
