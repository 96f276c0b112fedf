"""Devices: picking one, mixed precision, and copies between CPU and GPU for which neither waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from purrception.utils.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """The device of a name: ``auto`` (a GPU where there is one) or one of torch's.

    Raises:
        InputError: there is no such device on this machine.
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
    """Copy a tensor from the CPU to ``device`` without waiting for it.

    A copy from pageable memory would wait until a GPU has finished all its earlier work; one from pinned memory is
    queued.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def downloads(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each tensor on the CPU; while one is copied and used, the GPU works on the next."""

    def begun() -> Iterator[tuple[Tensor, torch.cuda.Event | None]]:
        for tensor in tensors:
            copied, event = tensor.to("cpu", non_blocking=True), None
            if tensor.device.type == "cuda":
                event = torch.cuda.Event()
                event.record()
            yield copied, event

    for (copied, event), _ in pairwise(chain(begun(), [(torch.empty(0), None)])):
        if event is not None:
            event.synchronize()
        yield copied


def on_device(part: Module) -> Module:
    """A part of a pipeline, moved to where it computes.

    Under diffusers' ``enable_model_cpu_offload`` this brings it to the GPU, and the part before it leaves. By
    itself diffusers does so only when a part is called as a whole, not when it is asked for codes or posteriors.
    """
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)
    return part
