"""A part of a checkpoint: named tensors in a folder of safetensors files, one for each process that holds shards.

The layout is that of torch's ``HuggingFaceStorageWriter`` with ``save_distributed``: each file's metadata say
where in the whole tensor a piece begins. Older torch has no such writer; here any torch writes and reads it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from purrception.storage import sha256_of
from purrception.training.distributed import own
from purrception.utils import distributed
from purrception.utils.errors import in_words

FILE = "shard-{number:05d}-model-00001-of-00001.safetensors"
PLACES, START = "DCP_SHARDING_INFO", "saved_offsets"
"""Keys of torch's layout: the metadata's for all tensors of a file, and within it the offset of each."""
MARKS = {"DCP_VERSION": "1.0", "format": "pt"}


@dataclass(frozen=True)
class Piece:
    """A box of a tensor."""

    start: tuple[int, ...]
    """Where in the whole tensor it begins."""
    shape: tuple[int, ...]

    def shared_with(self, other: Piece) -> Piece | None:
        """The box that both hold, if there is one."""
        start = tuple(max(pair) for pair in zip(self.start, other.start, strict=True))
        end = (min(pair) for pair in zip(self.end, other.end, strict=True))
        shape = tuple(b - a for a, b in zip(start, end, strict=True))
        return Piece(start, shape) if all(side > 0 for side in shape) else None

    def within(self, other: Piece) -> tuple[slice, ...]:
        """How to index ``other`` for this box."""
        offsets = [a - b for a, b in zip(self.start, other.start, strict=True)]
        return tuple(slice(at, at + side) for at, side in zip(offsets, self.shape, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """Where it ends, exclusive."""
        return tuple(a + side for a, side in zip(self.start, self.shape, strict=True))


class Part:
    """What lies in a folder that :func:`write_part` or torch wrote.

    Args:
        folder: of the part.

    Raises:
        OSError: a file is missing, damaged, or lacks a piece of a tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.pieces: dict[str, dict[Path, Piece]] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"no .safetensors file in {folder}")
        try:
            for path in files:
                self._survey(path)
        except (SafetensorError, ValueError, KeyError) as error:
            raise OSError(f"{path.name}: {error}") from error
        self.sizes = {
            name: torch.Size(max(ends) for ends in zip(*(piece.end for piece in pieces.values()), strict=True))
            for name, pieces in self.pieces.items()
        }
        for name, pieces in self.pieces.items():
            if sum(math.prod(piece.shape) for piece in set(pieces.values())) != self.sizes[name].numel():
                raise OSError(f"of {name} there are only {len(pieces)} pieces, which are not the whole")

    def _survey(self, path: Path) -> None:
        """Learn from a file's header what it holds."""
        with safe_open(path, "pt") as file:
            places = json.loads((file.metadata() or {}).get(PLACES, "{}"))
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                shape = tuple(file.get_slice(name).get_shape())
                start = tuple(places[name][START]) if places else (0,) * len(shape)
                self.pieces.setdefault(name, {})[path] = Piece(start, shape)

    @torch.no_grad()
    def read(self, tensors: dict[str, Tensor]) -> None:
        """Fill tensors of the same names and sizes in place; those in shards take their own shard's share.

        Raises:
            OSError: a file cannot be read.
        """
        paths = sorted({path for name in tensors for path in self.pieces[name]})
        for path in paths:
            try:
                with safe_open(path, "pt") as file:
                    for name, tensor in tensors.items():
                        if path in self.pieces[name]:
                            _fill(tensor, file, name, self.pieces[name][path])
            except SafetensorError as error:
                raise OSError(f"{path.name}: {error}") from error


def write_part(folder: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Write one part; every process takes part, and writes the shards that it holds.

    What each process has a copy of is written by the first of those that have it.

    Returns:
        SHA-256 of the part's files, of all processes, by name.

    Raises:
        OSError: it cannot be written, by this process or another.
    """
    mine: dict[str, Tensor] = {}
    places: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in sorted(tensors.items()):  # the same file whatever an optimizer's own order
        piece = _piece_of(tensor)
        if _is_first_copy(tensor) and 0 not in piece.shape:
            mine[name] = own(tensor).detach().contiguous()
            places[name] = {START: piece.start}
    problem, digests = "", {}
    if mine:
        try:
            folder.mkdir(exist_ok=True)
            path = folder / FILE.format(number=distributed.rank() + 1)
            save_file(mine, path, {PLACES: json.dumps(places), **MARKS})
            digests = {path.name: sha256_of(path)}
        except (OSError, SafetensorError) as error:
            problem = in_words(error)
    for found, written in distributed.gather((problem, digests)):
        if found:
            raise OSError(found)
        digests |= written
    return digests


def _fill(tensor: Tensor, file: safe_open, name: str, stored: Piece) -> None:
    wanted = _piece_of(tensor)
    shared = stored.shared_with(wanted)
    if shared is None:
        return
    content = file.get_tensor(name) if shared == stored else file.get_slice(name)[shared.within(stored)]
    own(tensor)[shared.within(wanted)].copy_(content)


def _piece_of(tensor: Tensor) -> Piece:
    """Where it lies: FSDP2 cuts the first dimension into equal pieces, the last smaller or empty."""
    start, shape = [0] * tensor.dim(), list(tensor.shape)
    if isinstance(tensor, DTensor):
        for axis, placement in enumerate(tensor.placements):
            if placement.is_shard(0):
                rows = math.ceil(shape[0] / tensor.device_mesh.size(axis))
                skipped = min(shape[0], rows * tensor.device_mesh.get_local_rank(axis))
                start[0], shape[0] = start[0] + skipped, min(rows, shape[0] - skipped)
            else:
                assert placement.is_replicate()
        assert tuple(shape) == tensor.to_local().shape
    return Piece(tuple(start), tuple(shape))


def _is_first_copy(tensor: Tensor) -> bool:
    """Whether this process is the first of those that hold the same piece."""
    if not isinstance(tensor, DTensor):
        return distributed.rank() == 0
    axes = [axis for axis, placement in enumerate(tensor.placements) if placement.is_replicate()]
    return all(tensor.device_mesh.get_local_rank(axis) == 0 for axis in axes)
