"""What the tests of several processes run in each of them: ``torchrun two_processes.py TINY_RUN OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from purrception import processes
from tests.training.test_loop import make_trainer

SETTINGS = {
    "ddp": {"parallel": "ddp", "accumulation": 2},
    "fsdp": {"parallel": "fsdp", "accumulation": 2},
    "hybrid": {"parallel": "hybrid", "shards": 1},
    "recomputed": {"parallel": "fsdp", "recompute": True},
}


def main(tiny_run: Path, out: Path) -> None:
    """Train under every setting; stop one training half-way, and go on with one that one process began."""
    with processes.joined(torch.device("cpu")):
        for name, training in SETTINGS.items():
            make_trainer(tiny_run, out / name, **training).fit()
        make_trainer(tiny_run, out / "two-then-one", parallel="fsdp").fit(until=4)
        following = make_trainer(tiny_run, out / "one-then-two", parallel="fsdp")
        checkpoint = following.checkpoints.latest()
        assert checkpoint is not None
        following.restore(checkpoint)
        following.fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
