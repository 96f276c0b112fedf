"""Shard files: written whole, memory-mapped, verified."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from purrception.storage import write_file

SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "I32": np.dtype("<i4")}


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.safetensors"


def write_shard(path: Path, indices: np.ndarray, labels: np.ndarray, codebook_size: int) -> str:
    """Write codes ``[n, h, w]`` and labels ``[n]``; returns the file's SHA-256, hexadecimal."""
    dtype = np.uint16 if codebook_size <= 2**16 else np.int32
    content = save({"indices": np.ascontiguousarray(indices.astype(dtype)), "labels": labels.astype(np.int32)})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """Memory-map the arrays of a safetensors file: an 8-byte length, a JSON header, then the bytes."""
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(header_bytes))
    whole = np.memmap(str(path), dtype=np.uint8, mode="r", offset=0)
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = (8 + header_bytes + offset for offset in entry["data_offsets"])
            arrays[name] = whole[start:stop].view(SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
