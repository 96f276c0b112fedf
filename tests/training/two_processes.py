"""What the tests of several processes run in each of them: ``torchrun two_processes.py TINY_RUN OUT``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from purrception.training.distributed import can_shard
from purrception.training.parts import write_part
from purrception.utils import distributed
from tests.training.test_loop import Poison, make_trainer

IN_SHARDS = can_shard(torch.device("cpu"))
LARGEST = "fsdp" if IN_SHARDS else "ddp"
"""The way to hold the state that this torch has at most."""
SETTINGS = {
    "ddp": {"parallel": "ddp", "accumulation": 2},
    "fsdp": {"parallel": "fsdp", "accumulation": 2},
    "hybrid": {"parallel": "hybrid", "shards": 1},
    "recomputed": {"parallel": "fsdp", "recompute": True},
}
if not IN_SHARDS:
    SETTINGS = {"ddp": SETTINGS["ddp"], "recomputed": {"parallel": "ddp", "recompute": True}}


def main(tiny_run: Path, out: Path) -> None:
    """Train under every setting; stop one training half-way, and go on with one that one process began."""
    with distributed.joined(torch.device("cpu")):
        for name, training in SETTINGS.items():
            make_trainer(tiny_run, out / name, **training).fit()
        for parallel in ("ddp", LARGEST):
            skipping = make_trainer(tiny_run, out / f"skipping-{parallel}", parallel=parallel)
            if distributed.rank() == 1:  # what goes wrong in one is skipped by both
                Poison(skipping, {3}, "gradient")
            skipping.fit()
            assert (skipping.state.updates, skipping.state.skipped) == (7, 1)
        make_trainer(tiny_run, out / "two-then-one", parallel=LARGEST).fit(until=4)
        following = make_trainer(tiny_run, out / "one-then-two", parallel=LARGEST)
        checkpoint = following.checkpoints.latest()
        assert checkpoint is not None
        following.restore(checkpoint)
        following.fit()
        write_as_torch_does(following.network, out / "by-torch" / "network")
        write_part(made(out / "by-us" / "network"), following.network.state_dict())


def made(folder: Path) -> Path:
    """``folder``, in a folder that is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def write_as_torch_does(network: nn.Module, folder: Path) -> None:
    """Shards as torch's own writer lays them down, which older torch does not have."""
    if find_spec("torch.distributed.checkpoint.hf_storage") is None:
        return
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    save(network.state_dict(), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
