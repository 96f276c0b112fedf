"""Parts of a checkpoint: what is written is read, whole or in pieces, also what torch's own writer wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from purrception.training.parts import Part, write_part


def tensors() -> dict[str, Tensor]:
    return {
        "weight": torch.randn(5, 3),
        "half": torch.randn(4).bfloat16(),
        "turned": torch.randn(2, 6).T,
        "step": torch.tensor(7.0),
        "indices": torch.arange(3),
    }


def read(folder: Path) -> dict[str, Tensor]:
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    part = Part(folder)
    assert part.sizes == {name: tensor.shape for name, tensor in found.items()}
    part.read(found)
    return found


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    given = tensors()
    write_part(tmp_path / "part", given)
    found = read(tmp_path / "part")
    assert all(torch.equal(given[name], found[name]) for name in given)


def test_checkpoints_that_torch_wrote_are_read(tmp_path: Path) -> None:
    storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage", reason="newer torch alone has it")
    from torch.distributed.checkpoint import save

    given = {name: tensor.contiguous() for name, tensor in tensors().items()}
    with pytest.warns(UserWarning, match=r"torch\.distributed is"):
        save(
            given,
            no_dist=True,
            storage_writer=storage.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True),
        )
    found = read(tmp_path)
    assert all(torch.equal(given[name], found[name]) for name in given)


def write_pieces(folder: Path, whole: Tensor, corners: list[tuple[slice, slice]]) -> None:
    """A file for each box, as processes with shards write them."""
    for number, corner in enumerate(corners, 1):
        start = [side.start for side in corner]
        metadata = {"DCP_SHARDING_INFO": json.dumps({"weight": {"saved_offsets": start}})}
        path = folder / f"shard-{number:05d}-model-00001-of-00001.safetensors"
        save_file({"weight": whole[corner].contiguous()}, path, metadata)


def test_pieces_of_any_cut_make_the_whole_and_a_lost_one_is_missed(tmp_path: Path) -> None:
    whole = torch.randn(7, 4)
    top, bottom, left, right = slice(0, 5), slice(5, 7), slice(0, 1), slice(1, 4)
    write_pieces(tmp_path, whole, [(top, left), (top, right), (bottom, left), (bottom, right)])
    found = torch.zeros(7, 4)
    Part(tmp_path).read({"weight": found})
    assert torch.equal(found, whole)
    (tmp_path / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(OSError, match="the 3 pieces of weight do not make up the whole tensor"):
        Part(tmp_path)


def test_a_file_cut_short_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    write_part(tmp_path / "part", tensors())
    (file,) = (tmp_path / "part").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(OSError, match=r"shard-00001-model-00001-of-00001\.safetensors: "):
        Part(tmp_path / "part")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file"):
        Part(tmp_path / "nothing")
