"""One network in several processes: copied (DDP), sharded (FSDP2), or sharded within groups (hybrid)."""

from __future__ import annotations

import contextlib
import os

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from purrception.flow import Losses, Objective, TrainingBatch
from purrception.models import PurrceptionTransformer
from purrception.training.config import Parallel
from purrception.utils import distributed
from purrception.utils.errors import InputError


class LossOf(nn.Module):
    """The loss as one forward pass, so that DDP and FSDP2 see every use of a weight, in backbone and head."""

    def __init__(self, objective: Objective, network: PurrceptionTransformer) -> None:
        super().__init__()
        self.objective, self.network = objective, network

    def forward(self, batch: TrainingBatch) -> Losses:
        """Losses of one microbatch."""
        return self.objective.loss(self.network, batch)


def distribute(loss: LossOf, parallel: Parallel, shards: int, device: torch.device) -> nn.Module:
    """A module to call in place of ``loss``, whose gradients are those of the batches of all processes.

    A single process gets ``loss`` back.

    Args:
        loss: the loss of a network on its device; FSDP2 turns its parameters into shards in place.
        parallel: how to distribute it.
        shards: under ``hybrid``, how many processes share one copy; 0: those of a machine.
        device: the device of the network.

    Raises:
        InputError: ``shards`` does not divide the number of processes, or this torch cannot shard on this device.
    """
    if distributed.count() == 1:
        return loss
    if parallel == "ddp":
        return DistributedDataParallel(loss, broadcast_buffers=False, gradient_as_bucket_view=True)
    if not can_shard(device):
        raise InputError(
            f"training.parallel {parallel} on CPUs needs a newer torch than {torch.__version__}: use ddp or GPUs, "
            "or pip install --upgrade torch"
        )
    shard(loss, _mesh(parallel, shards, device))
    return loss


def can_shard(device: torch.device) -> bool:
    """Whether this torch's FSDP2 works on a device; that of 2.6 needs events of CPU streams, which it lacks."""
    return device.type != "cpu" or hasattr(torch.cpu.Stream, "record_event")


def shard(loss: LossOf, mesh: DeviceMesh) -> None:
    """Shard each block separately, so that few are gathered at a time, and everything else together."""
    for block in loss.network.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(loss, mesh=mesh)


def shard_like(network: PurrceptionTransformer, other: PurrceptionTransformer, objective: Objective) -> None:
    """Shard ``network`` as ``other`` is sharded, if it is."""
    parameter = next(other.parameters())
    if isinstance(parameter, DTensor):
        shard(LossOf(objective, network), parameter.device_mesh)


def _mesh(parallel: Parallel, shards: int, device: torch.device) -> DeviceMesh:
    count = distributed.count()
    if parallel == "fsdp":
        return init_device_mesh(device.type, (count,))
    shards = shards or int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if count % shards:
        raise InputError(
            f"the number of processes must be a multiple of training.shards; given {count} and {shards}"
        )
    return init_device_mesh(device.type, (count // shards, shards), mesh_dim_names=("copies", "shards"))


def gradients_of(module: nn.Module, *, complete: bool) -> contextlib.AbstractContextManager[None]:
    """A context for forward and backward; DDP exchanges gradients only when they are ``complete``.

    FSDP2 exchanges them at each microbatch, since a process has no room for the gradients of the whole network.
    """
    if isinstance(module, DistributedDataParallel) and not complete:
        return module.no_sync()
    return contextlib.nullcontext()


def full(tensor: Tensor) -> Tensor:
    """A tensor with all its shards; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """The shard of a tensor that this process holds, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(network: PurrceptionTransformer) -> PurrceptionTransformer:
    """``network`` itself or, if it is sharded, a copy with all weights; every process must call this."""
    state = network.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return network
    copy = PurrceptionTransformer.from_config(network.config)
    copy.load_state_dict({name: full(tensor) for name, tensor in state.items()})
    return copy.to(network.device).eval().requires_grad_(False)
