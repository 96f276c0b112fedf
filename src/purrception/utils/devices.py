"""Tensors and networks on their way between a processor and a GPU, without either waiting for the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def takes_bfloat16(precision: str, device: str) -> bool:
    """Whether a network of a ``precision`` setting runs in bfloat16 on a type of device; auto: on GPUs."""
    return precision == "bfloat16" or (precision == "auto" and device == "cuda")


def autocast(precision: str, device: torch.device, *, cache: bool = True) -> torch.autocast:
    """A context in which a network runs at a ``precision`` setting.

    Args:
        precision: float32, bfloat16, or auto, which is bfloat16 on GPUs.
        device: the network's.
        cache: cast each weight once within the context.
    """
    low = takes_bfloat16(precision, device.type)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low, cache_enabled=cache)


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which nothing is rounded by an autocast around it."""
    return torch.autocast(autocast_device(device), enabled=False)


def autocast_device(device: torch.device) -> str:
    """The type of ``device`` as autocast knows it; cpu for those it does not know, such as meta."""
    return device.type if torch.amp.is_autocast_available(device.type) else "cpu"


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
