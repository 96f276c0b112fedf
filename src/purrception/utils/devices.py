"""Picking a device, and copies between a processor and a GPU for which neither waits for the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from purrception.utils.errors import InputError

M = TypeVar("M", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """``"auto"`` (a GPU when there is one) or a torch device name → a device that exists.

    Raises:
        InputError: it does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the device {name!r} cannot be used here: {reason}") from error
    return device


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on ``device``.

    From ordinary memory a copy to a GPU waits until all that was asked of it before is done; from pinned memory it
    takes its turn and the processor goes on.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def downloads(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each tensor on the processor; while it is copied, and used, the GPU is at work on the next."""
    waiting: tuple[Tensor, torch.cuda.Event | None] | None = None

    def arrived() -> Iterator[Tensor]:
        if waiting is not None:
            copied, event = waiting
            if event is not None:
                event.synchronize()
            yield copied

    for tensor in tensors:
        copied, event = tensor.to("cpu", non_blocking=True), None
        if tensor.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        yield from arrived()
        waiting = copied, event
    yield from arrived()


def ready(part: M) -> M:
    """A part of a pipeline where it computes.

    Under diffusers' ``enable_model_cpu_offload`` it is brought to the GPU, and the part before it leaves. Its own
    hook does so when the part is called as a whole; ours are asked for codes, losses and posteriors.
    """
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)
    return part
