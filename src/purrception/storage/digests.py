"""The SHA-256 of the files in a folder, in ``SHA256SUMS`` beside them, as ``sha256sum --check`` reads it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from purrception.storage.files import plain_name, write_file
from purrception.storage.readers import read_limited
from purrception.utils.errors import InputError

DIGESTS_FILE = "SHA256SUMS"
SKIP_DIGESTS = "PURRCEPTION_SKIP_DIGESTS"
"""The environment variable that, set to 1, turns off the comparison of files with their digests."""
LINE = re.compile(r"([0-9a-f]{64})  (.{1,1000})")
LARGEST_INDEX = 2**24
"""The largest ``SHA256SUMS``, in bytes."""


def skips_digests() -> bool:
    """Whether the comparison of files with their digests is turned off."""
    return os.environ.get(SKIP_DIGESTS) == "1"


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digests(folder: Path, mine: Callable[[str], bool] = lambda name: True) -> None:
    """Write ``SHA256SUMS`` for the files in ``folder`` and below, except hidden ones.

    Args:
        folder: the folder.
        mine: which names, relative to ``folder``, are listed.

    Raises:
        InputError: the disk is full.
    """
    files = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != DIGESTS_FILE)
    names = filter(mine, (path.relative_to(folder).as_posix() for path in files))
    write_file(folder / DIGESTS_FILE, digest_lines({name: sha256_of(folder / name) for name in names}))


def content_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a text and of named tensors with their types and shapes; hexadecimal.

    For files that contain their own digest, and so cannot be hashed as a whole.
    """
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def updating_digests(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Around the rewriting of files in a folder: their new digests go into its ``SHA256SUMS``, where it has one.

    If the process is killed meanwhile, the files are not listed, rather than listed with wrong digests.

    Raises:
        InputError: ``SHA256SUMS`` is damaged, or the disk is full.
    """
    index = folder / DIGESTS_FILE
    if not index.is_file():
        yield
        return
    kept = {name: digest for name, digest in _read(index).items() if name not in names}
    write_file(index, digest_lines(kept))
    yield
    present = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    write_file(index, digest_lines(kept | present))


def digest_lines(digests: Mapping[str, str]) -> str:
    """The text of ``SHA256SUMS`` for digests by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def check_digests(folder: Path, mine: Callable[[str], bool] = lambda name: True, *, missing: bool = True) -> None:
    """Compare the files of a folder with ``SHA256SUMS``; a folder of an older version, without it, passes.

    Args:
        folder: the folder.
        mine: which of the listed names to compare.
        missing: whether it is an error if one of them does not exist.

    Raises:
        InputError: a file is missing or altered, or ``SHA256SUMS`` is damaged.
    """
    if not (folder / DIGESTS_FILE).is_file() or skips_digests():
        return
    digests = _read(folder / DIGESTS_FILE)
    for name in filter(mine, digests):
        path = folder / name
        if missing and not path.is_file():
            raise InputError(f"{path} is missing: {folder / DIGESTS_FILE} lists it")
        if path.is_file() and sha256_of(path) != digests[name]:
            raise InputError(
                f"{path} is damaged or altered: its SHA-256 is not the one in {DIGESTS_FILE}; take it from where "
                f"it came, or if you altered it yourself, remove {folder / DIGESTS_FILE}"
            )


def _read(file: Path) -> dict[str, str]:
    digests = {}
    for line in read_limited(file, LARGEST_INDEX, "an index of digests").decode(errors="replace").splitlines():
        found = LINE.fullmatch(line)
        if not found:
            raise InputError(f"{file} is damaged: a line is not a SHA-256 and a file name; given {line[:100]!r}")
        for part in found[2].split("/"):
            plain_name(part, file)
        digests[found[2]] = found[1]
    if not digests:
        raise InputError(f"{file} is damaged: it is empty")
    return digests
