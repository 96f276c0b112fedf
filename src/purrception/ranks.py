"""The processes of one job: how many there are, and where they wait for each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work."""

    rank: int = 0
    world_size: int = 1

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.barrier()


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, joined over gloo; alone without torchrun.

    A process may be done with its part days before the slowest one: waiting has no short time limit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as distributed

    joined_before = distributed.is_initialized()
    if not joined_before:
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        if not joined_before:
            distributed.destroy_process_group()


def local_device(name: str) -> str:
    """``auto`` → this process's own GPU under torchrun, where there are GPUs; any other name as it is."""
    if name != "auto" or "LOCAL_RANK" not in os.environ:
        return name
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
