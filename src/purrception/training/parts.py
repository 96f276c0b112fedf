"""A part of a checkpoint: named tensors in a folder of safetensors files, one for each process that holds shards.

The layout is that of torch's ``HuggingFaceStorageWriter`` with ``save_distributed``: the metadata of each file say
where in the whole tensor a piece starts. Older versions of torch lack that writer; this one works with all of
them.
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
"""Keys of torch's layout: for all tensors in a file's metadata, and within it for the offset of each."""
MARKS = {"DCP_VERSION": "1.0", "format": "pt"}


@dataclass(frozen=True)
class Piece:
    """A box within a tensor."""

    start: tuple[int, ...]
    """Where it starts in the whole tensor."""
    shape: tuple[int, ...]

    def shared_with(self, other: Piece) -> Piece | None:
        """The intersection of both boxes, if there is one."""
        start = tuple(max(pair) for pair in zip(self.start, other.start, strict=True))
        end = (min(pair) for pair in zip(self.end, other.end, strict=True))
        shape = tuple(b - a for a, b in zip(start, end, strict=True))
        return Piece(start, shape) if all(side > 0 for side in shape) else None

    def within(self, other: Piece) -> tuple[slice, ...]:
        """The slices of ``other`` that make up this box."""
        offsets = [a - b for a, b in zip(self.start, other.start, strict=True)]
        return tuple(slice(at, at + side) for at, side in zip(offsets, self.shape, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """Where it ends, exclusive."""
        return tuple(a + side for a, side in zip(self.start, self.shape, strict=True))


class Part:
    """The contents of a folder that :func:`write_part` or torch wrote.

    Args:
        folder: the folder of the part.

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
                raise OSError(f"the {len(pieces)} pieces of {name} do not make up the whole tensor")

    def _survey(self, path: Path) -> None:
        """Record what a file holds, from its header."""
        with safe_open(path, "pt") as file:
            places = json.loads((file.metadata() or {}).get(PLACES, "{}"))
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shape = tuple(file.get_slice(name).get_shape())
                start = tuple(places[name][START]) if places else (0,) * len(shape)
                self.pieces.setdefault(name, {})[path] = Piece(start, shape)

    @torch.no_grad()
    def read(self, tensors: dict[str, Tensor]) -> None:
        """Fill tensors of the same names and sizes in place; sharded tensors read their own shard.

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
    """Write one part; every process must call this, and writes the shards that it holds.

    What several processes hold is written by the first of them.

    Returns:
        SHA-256 of the part's files, of all processes, by name.

    Raises:
        OSError: this process or another cannot write.
    """
    mine: dict[str, Tensor] = {}
    places: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in sorted(tensors.items()):  # the same file whatever the order of an optimizer's state
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
    own_piece = _piece_of(tensor)
    shared = stored.shared_with(own_piece)
    if shared is None:
        return
    content = file.get_tensor(name) if shared == stored else file.get_slice(name)[shared.within(stored)]
    own(tensor)[shared.within(own_piece)].copy_(content)


def _piece_of(tensor: Tensor) -> Piece:
    """The piece that this process holds: FSDP2 splits the first dimension evenly, the last piece smaller or
    empty."""
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
    """Whether this process is the first that holds its piece."""
    if not isinstance(tensor, DTensor):
        return distributed.rank() == 0
    axes = [axis for axis, placement in enumerate(tensor.placements) if placement.is_replicate()]
    return all(tensor.device_mesh.get_local_rank(axis) == 0 for axis in axes)
