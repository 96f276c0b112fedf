"""Shard files: written as a whole, and checked and memory-mapped to be read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save

from purrception.storage import reading, write_file
from purrception.utils.errors import InputError

SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "I32": np.dtype("<i4")}
LARGEST_HEADER = 2**16
"""The largest header, in bytes; that of four arrays takes about four hundred."""


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def write_shard(
    path: Path, indices: np.ndarray, labels: np.ndarray, codebook_size: int, captions: Sequence[str] = ()
) -> str:
    """Write indices ``[n, h, w]``, labels ``[n]`` and, if there are any, n captions.

    Captions are stored as the bytes of their UTF-8, one after another (``captions``, uint8), and where each ends
    (``caption_ends``, int32 ``[n]``).

    Returns:
        The SHA-256 of the file, hexadecimal.
    """
    dtype = np.uint16 if codebook_size <= 2**16 else np.int32
    arrays = {"indices": np.ascontiguousarray(indices.astype(dtype)), "labels": labels.astype(np.int32)}
    if captions:
        encoded = [caption.encode() for caption in captions]
        arrays["captions"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays["caption_ends"] = np.cumsum([len(each) for each in encoded], dtype=np.int32)
    content = save(arrays)
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def read_captions(path: Path) -> list[str]:
    """The captions in a shard, by row; none where it has none.

    Raises:
        InputError: the file is no shard, or its captions do not add up.
    """
    with reading("a token shard", path, "encode the images again"):
        arrays = load_file(path)
        if "captions" not in arrays:
            return []
        content, ends = arrays["captions"].tobytes(), arrays["caption_ends"].tolist()
        if len(ends) != len(arrays["labels"]) or ends != sorted(ends) or ends[-1] != len(content):
            raise ValueError(f"{len(content)} bytes of captions do not end where {len(ends)} rows say")
        return [content[start:end].decode() for start, end in pairwise([0, *ends])]


@dataclass(frozen=True)
class _Entry:
    """An array in a safetensors header."""

    dtype: Literal["U16", "I32"]
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class _Header:
    """The header of a shard; other arrays are ignored."""

    indices: _Entry
    labels: _Entry


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """Memory-map ``indices`` and ``labels`` of a safetensors file: an 8-byte length, a JSON header, the arrays.

    Raises:
        InputError: it is not the header of a shard, or it claims more than the file contains.
    """
    with reading("a token shard", path, "encode the images again"):
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LARGEST_HEADER:
                raise InputError(f"{path} is not a token shard: it claims a header of {length} bytes")
            header = TypeAdapter(_Header).validate_json(stream.read(length), strict=True)
        whole = np.memmap(str(path), dtype=np.uint8, mode="r", offset=8 + length)
        entries: dict[str, _Entry] = vars(header)
        (_, end), (begin, _) = sorted(entry.data_offsets for entry in entries.values())
        if begin < end:
            raise InputError(f"{path} is damaged: its arrays overlap; encode the images again")
        return {name: _array(whole, entry) for name, entry in entries.items()}


def _array(whole: np.ndarray, entry: _Entry) -> np.ndarray:
    dtype, (start, stop) = SAFETENSORS_DTYPES[entry.dtype], entry.data_offsets
    if not 0 <= start <= stop <= len(whole) or min(entry.shape, default=0) < 0:
        raise ValueError(f"an array is claimed to be at bytes {start} to {stop} of {len(whole)}")
    if math.prod(entry.shape) * dtype.itemsize != stop - start:
        raise ValueError(f"{stop - start} bytes are not an array {list(entry.shape)} of {entry.dtype}")
    return whole[start:stop].view(dtype).reshape(entry.shape)
