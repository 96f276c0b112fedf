"""Arrays of an ``.npz`` that somebody else wrote, read only once its headers match its bytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from purrception.storage import LimitedReads, reading
from purrception.utils.errors import InputError

LARGEST_READ = 2**24
"""Bytes of the zip's directory, and of one step of reading."""
LARGEST_ARRAYS = 2**30
"""Bytes of all arrays that are read whole: features of 50 000 images and Inception's statistics take 0.7 GB."""
UNSUSPICIOUS, MOST_COMPRESSED = 2**26, 100
"""An array above this size in bytes may be at most so many times as large as in the file: others are zip bombs."""
KINDS = "?fiubU"
"""Kinds of NumPy types that are numbers or text; objects would be pickles."""
NAMES_LISTED = 10


@dataclass(frozen=True)
class Array:
    """An array that is still in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int
    """Offset of the values in their ``.npy``, bytes."""

    @property
    def size(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """An ``.npz``, open.

    Args:
        archive: the zip.
        path: for errors.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        members = archive.infolist()
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        if len(self._members) < len(members):
            raise InputError(f"{path} holds two arrays of one name: make it again")
        self.names = list(self._members)
        """Names of the arrays."""

    def look(self, name: str) -> Array:
        """Shape and type of an array.

        Raises:
            InputError: they do not match its bytes in the file, or it is neither numbers nor text.
        """
        member = self._members[name]
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{self._path} holds {name} encrypted, or compressed as numpy never does: save it again"
            )
        with self._archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(stream)
            found = Array(name, tuple(map(int, shape)), dtype, fortran, stream.tell())
        if dtype.kind not in KINDS or min(shape, default=0) < 0:
            raise InputError(f"{self._path} holds {name} of type {dtype}; accepted are numbers and texts")
        if found.start + found.size != member.file_size:
            raise InputError(
                f"{self._path} holds {name} of shape {list(shape)}, {found.size} bytes of {dtype}, in "
                f"{member.file_size - found.start}: it is damaged"
            )
        if found.size > max(UNSUSPICIOUS, MOST_COMPRESSED * member.compress_size):
            raise InputError(
                f"{self._path} holds {name} of {found.size} bytes compressed to {member.compress_size}; large "
                f"arrays are taken up to {MOST_COMPRESSED} times their size in the file: save it uncompressed"
            )
        return found

    def read(self, array: Array, start: int, size: int) -> bytes:
        """``size`` bytes of an array's values from ``start`` on.

        Raises:
            InputError: there are fewer.
        """
        parts, left = [], size
        with self._archive.open(self._members[array.name]) as stream:
            stream.seek(array.start + start)
            while left and (part := stream.read(min(left, LARGEST_READ))):
                parts.append(part)
                left -= len(part)
            if start + size == array.size:
                stream.read(1)  # at its end, the zip's checksum is looked at
        if left:
            raise InputError(f"{self._path} is cut off: it ends within {array.name}")
        return b"".join(parts)

    def whole(self, array: Array) -> np.ndarray:
        """All values of an array."""
        if array.dtype.itemsize == 0:
            return np.zeros(array.shape, array.dtype)
        values = np.frombuffer(self.read(array, 0, array.size), dtype=array.dtype)
        return values.astype(array.dtype.newbyteorder("=")).reshape(
            array.shape, order="F" if array.fortran else "C"
        )


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an ``.npz``; whatever is raised in the block becomes one line that names it.

    Raises:
        InputError: the file is missing, or no ``.npz``.
    """
    if not path.is_file():
        raise InputError(f"no file at {path}")
    with reading("an .npz", path), LimitedReads(path, LARGEST_READ) as file, zipfile.ZipFile(file) as archive:
        yield Npz(archive, path)


def read_npz(path: Path, take: Collection[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of all arrays in an ``.npz``, and those of the arrays in ``take``; nothing is unpickled.

    Raises:
        InputError: the file is missing or no ``.npz``, an array is damaged, or they are too large.
    """
    with open_npz(path) as npz:
        arrays = [npz.look(name) for name in npz.names if name in take]
        if (total := sum(array.size for array in arrays)) > LARGEST_ARRAYS:
            raise InputError(f"{path} holds arrays of {total} bytes; at most {LARGEST_ARRAYS} are read at once")
        return npz.names, {array.name: npz.whole(array) for array in arrays}


def listed(names: Collection[str]) -> str:
    """Names in one line, the first few of many."""
    shown = [name[:40] if name.isprintable() else repr(name[:40]) for name in list(names)[:NAMES_LISTED]]
    more = f" and {len(names) - NAMES_LISTED} more" * (len(names) > NAMES_LISTED)
    return f"{', '.join(shown)}{more}" if shown else "nothing"
