"""Several processes that share one job: who am I, and what do we agree on. One process needs no set-up.

A process that is stuck must not keep the others waiting in silence. Each tells the others by a *beat* that it gets
on, whenever its progress is shown (:func:`beat`); those that wait look at the beats of those that are missing.
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
"""Words by which errors of talking to the others are known: torch raises them as plain RuntimeErrors."""


class MissingProcessError(InputError):
    """Another process died, left, or shows no progress."""


@dataclass
class _Party:
    """The processes that work together, as this one sees them."""

    store: Store
    minutes: float
    waits: Iterator[int] = field(default_factory=itertools.count)
    last_beat: float = 0.0

    @property
    def interval(self) -> float:
        """Seconds between two beats: a few, and a small part of what is waited."""
        return min(SECONDS_BETWEEN_BEATS, 12 * self.minutes)

    def arrive(self, name: str) -> None:
        """Tell the others that this process has come to a place."""
        self.store.set(f"{name}/{rank()}", "here")

    def missing(self, name: str) -> list[int]:
        """Ranks that have not come there."""
        return [other for other in range(count()) if not self.store.check([f"{name}/{other}"])]

    def beats(self, ranks: Sequence[int]) -> list[int]:
        """How often each of these processes has told that it gets on."""
        return [self.store.add(f"beat/{other}", 0) for other in ranks]


_party: _Party | None = None
_joins = itertools.count()
"""Of this process; torchrun keeps one store for all of them."""


def rank() -> int:
    """Number of this process, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: torch.device, minutes: float = TIMEOUT_MINUTES) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; yields this process's device.

    Gloo connects processors, NCCL GPUs; ``cuda`` becomes the GPU of this process's local number.

    Args:
        device: where to work.
        minutes: how long processes wait for one that shows no progress.

    Raises:
        InputError: ``torchrun`` is to restart processes, and would tell them the addresses of dead ones.
        MissingProcessError: a process did not answer in time; the line names it.
    """
    global _party
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    # torch 2.13 keeps one store over all restarts: who comes first reads where the others were before they died.
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun --max-restarts {restarts} needs a fresh store at each restart, or processes look for each "
            "other where they died: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
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
    _party = _Party(store, minutes)
    try:
        yield device
    except RuntimeError as error:
        if any(word in str(error).lower() for word in COMMUNICATION):
            raise _who_is_missing(_party, error) from error
        raise
    finally:
        _party = None
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether ``torchrun`` started this process again, after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def share(jobs: int) -> range:
    """The part of jobs 0, …, ``jobs`` − 1 that is this process's; the parts of all, in order, are the whole."""
    return range(jobs * rank() // count(), jobs * (rank() + 1) // count())


def beat() -> None:
    """Tell the others that this process gets on; called wherever progress is shown, told every few seconds."""
    party = _party
    if party is not None and time.monotonic() - party.last_beat > party.interval:
        party.last_beat = time.monotonic()
        party.store.add(f"beat/{rank()}", 1)


def wait() -> None:
    """Return when every process has come here, however long those take that show progress.

    Raises:
        MissingProcessError: one of the missing has shown no progress for too long.
    """
    party = _party
    if party is None:
        if count() > 1:
            dist.barrier()
        return
    name = f"wait/{next(party.waits)}"
    party.arrive(name)
    if not party.missing(name):
        party.store.set(f"{name}/all", "here")
        return
    began = said = time.monotonic()
    seen: dict[int, tuple[int, float]] = {}
    while not _released(party, name):
        now, missing = time.monotonic(), party.missing(name)
        for other, beats in zip(missing, party.beats(missing), strict=True):
            if seen.get(other, (-1, 0.0))[0] != beats:
                seen[other] = beats, now
        stuck = [other for other in missing if now - seen[other][1] > 60 * party.minutes]
        if stuck:
            raise _missing(stuck, f"showed no progress for {party.minutes:g} minutes")
        first = min(other for other in range(count()) if other not in missing)
        if missing and rank() == first and now - said > SECONDS_BETWEEN_LINES:
            said = now
            waited = f"waiting for {_listed(missing)} since {(now - began) / 60:.0f} min"
            print(waited, file=sys.stderr, flush=True)


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace float tensors by their mean over the processes, in one message; all give the same shapes."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def gather(value: Any) -> list[Any]:
    """What every process gave, by rank; small things only."""
    if count() == 1:
        return [value]
    wait()  # for those that are still at work: messages of torch know no progress, and time out
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def first_problem(problem: str) -> str:
    """The first that any process has, for all of them to raise alike; empty where none has any."""
    return next(filter(None, gather(problem)), "")


def _released(party: _Party, name: str) -> bool:
    """Whether all have come; looks for as long as a beat lasts."""
    try:
        party.store.wait([f"{name}/all"], timedelta(seconds=party.interval))
    except (RuntimeError, ValueError) as error:
        if "time" not in str(error).lower():
            raise
        return False
    return True


def _who_is_missing(party: _Party, error: RuntimeError) -> MissingProcessError:
    """After an error of communication: call the roll through the store, which does not need the others."""
    try:
        party.arrive("roll")
        end = time.monotonic() + ROLL_CALL_SECONDS
        while (missing := party.missing("roll")) and time.monotonic() < end:
            time.sleep(0.2)
    except RuntimeError:
        return MissingProcessError(
            "the process that keeps the addresses of the others, the first or torchrun itself, does not answer: "
            "look at what it printed"
        )
    if missing:
        return _missing(missing, f"did not answer within {party.minutes:g} minutes, or died")
    reason = str(error).splitlines()[0]
    return MissingProcessError(f"the processes lost touch, although all are still there: {reason}")


def _missing(ranks: Sequence[int], what: str) -> MissingProcessError:
    return MissingProcessError(
        f"{_listed(ranks)} {what}: look at what it printed and at its machine; if it only needs longer, give more "
        "minutes by --timeout-minutes (of a run: --training.timeout-minutes)"
    )


def _listed(ranks: Sequence[int]) -> str:
    return f"process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {count()}"
