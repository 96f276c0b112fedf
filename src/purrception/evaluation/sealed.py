"""Files of tensors with a digest, so that damaged and altered ones are noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from purrception.storage import content_digest, read_limited, reading, write_file
from purrception.utils.errors import InputError

LARGEST_FILE = 2**30
ENTRY = "sizes"
"""The only entry of the file's metadata, since safetensors writes several in no fixed order. The name is that of
the first files, which were classifiers."""
DIGEST = "sha256"


@dataclass(frozen=True)
class Sealed:
    """The content of such a file."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    """What was written about them."""
    has_digest: bool
    """Whether the digest was there, and right; files of earlier versions have none."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a description, ready for JSON, as safetensors with a digest of both.

    Raises:
        InputError: the disk is full.
    """
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**about, DIGEST: _digest(whole, about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(whole, metadata={ENTRY: text}))


def read_sealed(path: Path, what: str) -> Sealed:
    """Read what :func:`write_sealed` wrote, or an earlier version without a digest.

    Args:
        path: of the file.
        what: the file is expected to be, with its article, for errors.

    Raises:
        InputError: it is missing, no safetensors, or altered.
    """
    from safetensors.torch import load

    content = read_limited(path, LARGEST_FILE, what)
    with reading(what, path):
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header.get("__metadata__", {}).get(ENTRY, "{}"))
        if not isinstance(about, dict):
            raise ValueError("its description is no JSON object")
        digest = about.pop(DIGEST, None)
        if digest is not None and digest != _digest(tensors, about):
            raise InputError(f"{path} is damaged or altered: its content is not what its digest says")
    return Sealed(tensors, about, has_digest=digest is not None)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    return content_digest(json.dumps(about, sort_keys=True), tensors)
