"""Several processes that work on one job: joining them, waiting for each other, and sharing values.

A single process needs no set-up. A process that is stuck must not keep the others waiting silently: whenever a
process shows progress, it sends a heartbeat (:func:`beat`), and those that wait check the heartbeats of the
missing ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from purrception.utils.errors import InputError
from purrception.utils.settings import TIMEOUT_MINUTES

SECONDS_BETWEEN_BEATS, SECONDS_BETWEEN_LINES = 5.0, 60.0
ROLL_CALL_SECONDS = 10.0
COMMUNICATION = ("gloo", "nccl", "timed out", "timeout", "connection", "socket", "store")
"""Words by which errors of communication are recognised: torch raises them as plain RuntimeErrors."""


class MissingProcessError(InputError):
    """Another process died, left, or makes no progress."""


@dataclass
class _Group:
    """The processes that work together, as seen by this one."""

    store: Store
    minutes: float
    waits: Iterator[int] = field(default_factory=itertools.count)
    last_beat: float = 0.0

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats: a few, and a small part of the timeout."""
        return min(SECONDS_BETWEEN_BEATS, 12 * self.minutes)

    def arrive(self, name: str) -> None:
        """Tell the others that this process has reached a point."""
        self.store.set(f"{name}/{rank()}", "here")

    def missing(self, name: str) -> list[int]:
        """The ranks that have not reached it."""
        return [other for other in range(count()) if not self.store.check([f"{name}/{other}"])]


_group: _Group | None = None
_joins = itertools.count()
"""Counts the groups that this process has joined; torchrun has one store for all of them."""


def rank() -> int:
    """The number of this process, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """The number of processes that work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: torch.device, minutes: float = TIMEOUT_MINUTES) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if any, within the block; yields this process's device.

    Gloo connects CPUs and NCCL connects GPUs. ``cuda`` becomes the GPU with the local rank of this process.

    Args:
        device: where to work.
        minutes: how long processes wait for one that shows no progress.

    Raises:
        InputError: ``torchrun`` was told to restart processes, but would give them the addresses of dead ones.
        MissingProcessError: a process did not answer in time; the message names it.
    """
    global _group
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    # torch 2.13 keeps one store over all restarts: the first process reads the addresses that the others had
    # before.
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun --max-restarts {restarts} needs a new store at each restart, or processes look for each "
            "other at old addresses: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
        )
    if not 0 < minutes < 1e6:
        raise InputError(f"processes wait for each other for a positive number of minutes; given {minutes:g}")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    timeout = timedelta(minutes=minutes)
    shared, mine, everyone = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"purrception/{next(_joins)}", shared)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timeout,
        store=PrefixStore("group", store),
        rank=mine,
        world_size=everyone,
    )
    _group = _Group(store, minutes)
    try:
        yield device
    except RuntimeError as error:
        if any(word in str(error).lower() for word in COMMUNICATION):
            raise _who_is_missing(_group, error) from error
        raise
    finally:
        _group = None
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether ``torchrun`` restarted this process after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_first_start() -> bool:
    """Whether this process starts before, or instead of, all others of its job."""
    return os.environ.get("RANK", "0") == "0" and not restarted()


def share(jobs: int) -> range:
    """This process's part of the jobs 0, …, ``jobs`` − 1; the parts of all processes, in order, are the whole."""
    return range(jobs * rank() // count(), jobs * (rank() + 1) // count())


def beat() -> None:
    """Send a heartbeat if the last one was seconds ago; called wherever progress is shown."""
    group = _group
    if group is not None and time.monotonic() - group.last_beat > group.interval:
        group.last_beat = time.monotonic()
        group.store.add(f"beat/{rank()}", 1)


def wait() -> None:
    """Wait until every process has called this, for as long as the missing ones make progress.

    Raises:
        MissingProcessError: a missing process has made no progress for too long.
    """
    group = _group
    if group is None:
        if count() > 1:
            dist.barrier()
        return
    name = f"wait/{next(group.waits)}"
    group.arrive(name)
    if not group.missing(name):
        group.store.set(f"{name}/all", "here")
        return
    began = reported = time.monotonic()
    seen: dict[int, tuple[int, float]] = {}
    while not _released(group, name):
        now, missing = time.monotonic(), group.missing(name)
        for other in missing:
            beats = group.store.add(f"beat/{other}", 0)  # adds nothing: the number of its heartbeats
            if seen.get(other, (-1, 0.0))[0] != beats:
                seen[other] = beats, now
        stuck = [other for other in missing if now - seen[other][1] > 60 * group.minutes]
        if stuck:
            raise _missing(stuck, f"showed no progress for {group.minutes:g} minutes")
        first = min(other for other in range(count()) if other not in missing)
        if missing and rank() == first and now - reported > SECONDS_BETWEEN_LINES:
            reported = now
            waited = f"waiting for {_listed(missing)} since {(now - began) / 60:.0f} min"
            print(waited, file=sys.stderr, flush=True)


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace float tensors, of the same shapes in all processes, by their mean over the processes."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank; only for small values."""
    if count() == 1:
        return [value]
    wait()  # for processes that are still working: the calls of torch below would time out
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def first_problem(problem: str) -> str:
    """The first problem that any process has, for all of them to raise; empty if there is none."""
    return next(filter(None, gather(problem)), "")


def _released(group: _Group, name: str) -> bool:
    """Whether all processes have arrived; waits up to the interval between two heartbeats."""
    try:
        group.store.wait([f"{name}/all"], timedelta(seconds=group.interval))
    except (RuntimeError, ValueError) as error:
        if "time" not in str(error).lower():
            raise
        return False
    return True


def _who_is_missing(group: _Group, error: RuntimeError) -> MissingProcessError:
    """After an error of communication, find the missing processes through the store, which does not need them."""
    try:
        group.arrive("roll")
        end = time.monotonic() + ROLL_CALL_SECONDS
        while (missing := group.missing("roll")) and time.monotonic() < end:
            time.sleep(0.2)
    except RuntimeError:
        return MissingProcessError(
            "the process that has the addresses of the others, the first one or torchrun itself, does not answer: "
            "look at what it printed"
        )
    if missing:
        return _missing(missing, f"did not answer within {group.minutes:g} minutes, or died")
    reason = str(error).splitlines()[0]
    return MissingProcessError(f"the processes lost connection, although all still exist: {reason}")


def _missing(ranks: Sequence[int], what: str) -> MissingProcessError:
    return MissingProcessError(
        f"{_listed(ranks)} {what}: look at what it printed and at its machine; if it only needs longer, raise "
        "--timeout-minutes (for a run, --training.timeout-minutes)"
    )


def _listed(ranks: Sequence[int]) -> str:
    return f"process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {count()}"
