"""What a run will cost before it is started: parameters, operations, memory, disk and time, from the recipe alone.

Nothing is trained or allocated: the network is built without numbers, and what a step would keep for its backward
pass is added up while it pretends to take one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from purrception.config import RunConfig
from purrception.errors import InputError
from purrception.flow import Objective, TrainingBatch, build_objective
from purrception.models import PurrceptionTransformer, chunk_budget, training_flops
from purrception.models.cost import forward_flops
from purrception.tokenizers import PUBLIC_TOKENIZERS, VQTokenizer
from purrception.training import TrainingConfig

DAY = 86_400
IMAGENET_IMAGES = 1_281_167
STATE_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8, "moving average": 4}
"""Bytes a parameter, float32; AdamW keeps two moments."""


@dataclass(frozen=True)
class PlanOptions:
    """The machine that a plan is for."""

    gpus: int = 1
    """GPUs, one process each; they share the batch evenly, and the state as training.parallel says."""
    gpus_per_machine: int = 8
    """GPUs of one machine, which hold a copy together under hybrid unless training.shards says otherwise."""
    device: str = "cuda"
    """Kind of device, which chooses the size of a chunk of logits: cuda or cpu."""
    tflops: float = 989.0
    """Dense bfloat16 peak of one of them, TFLOP/s: an H100's or H200's."""
    utilisation: float = 0.5
    """Share of the peak that training reaches."""
    images: int = IMAGENET_IMAGES
    """Images to prepare; default: ImageNet's."""
    classes: int = 1000
    """Classes, where the recipe leaves them to the data."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        """Refuse a machine that cannot be."""
        if min(self.gpus, self.gpus_per_machine, self.images) < 1 or self.classes < 0 or not self.tflops > 0:
            raise InputError(
                f"a plan needs at least 1 GPU, 1 image and positive tflops; given {self.gpus}, {self.images} "
                f"and {self.tflops}"
            )
        if not 0 < self.utilisation <= 1:
            raise InputError(f"utilisation lies in (0, 1]; given {self.utilisation}")


@dataclass(frozen=True)
class Plan:
    """The cost of a run; bytes are per process, operations per image."""

    recipe: str
    machine: PlanOptions
    grid: tuple[int, int]
    codebook_size: int
    codebook_dim: int
    parameters: dict[str, int]
    """By part."""
    forward_flops: dict[str, int]
    """Of one image, by part."""
    training_flops: float
    """Of one image: forward, backward, and the evidence."""
    images_per_process: int
    memory: dict[str, int]
    """By kind; weights, gradients, optimiser and moving average in shards where they are."""
    shards: int
    """Processes that hold one copy of the state together."""
    disk: int
    """Bytes of the token shards."""
    steps: int
    batch_size: int
    seconds: float
    """The whole training at the utilisation supposed."""

    def json(self) -> str:
        """For machines."""
        return json.dumps(asdict(self), indent=2)

    def text(self) -> str:
        """For people."""
        gib = 2**30
        parameters = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in self.parameters.items())
        flops = ", ".join(f"{name} {count / 1e9:.2f} G" for name, count in self.forward_flops.items())
        memory = ", ".join(f"{name} {size / gib:.2f}" for name, size in self.memory.items())
        rate = self.steps * self.batch_size / self.seconds
        return "\n".join(
            [
                f"grid        {self.grid[0]}×{self.grid[1]} sites, K = {self.codebook_size}, "
                f"D = {self.codebook_dim}",
                f"parameters  {sum(self.parameters.values()) / 1e6:.1f} M: {parameters}",
                f"forward     {sum(self.forward_flops.values()) / 1e9:.1f} GFLOP an image: {flops}",
                f"training    {self.training_flops / 1e9:.1f} GFLOP an image",
                f"memory      {sum(self.memory.values()) / gib:.2f} GiB a process of {self.images_per_process} "
                f"images, the state in {self.shards} shard{'s' if self.shards > 1 else ''}: {memory}",
                f"disk        {self.disk / gib:.2f} GiB of token shards for {self.machine.images} images",
                f"time        {self.steps} steps of {self.batch_size} images on {self.machine.gpus} × "
                f"{self.machine.tflops:g} TFLOP/s at {self.machine.utilisation:.0%}: "
                f"{self.seconds / DAY:.2f} days, {rate:.0f} images/s",
            ]
        )


def plan(config: RunConfig, machine: PlanOptions) -> Plan:
    """The cost of the run that ``config`` describes on ``machine``.

    Raises:
        InputError: the batch cannot be shared evenly, or sizes do not fit each other.
    """
    training, objective = config.training, build_objective(config.objective)
    share = machine.gpus * training.accumulation
    if training.batch_size % share:
        raise InputError(
            f"a batch of {training.batch_size} cannot be shared by {machine.gpus} GPUs in "
            f"{training.accumulation} microbatches: change --training.batch_size or --gpus"
        )
    images = training.batch_size // share
    (height, width), size, dim = _token_sizes(config)
    shards = _shards(training, machine)
    with FakeTensorMode():
        network = _network(config, objective, (height, width), size, dim, machine)
        head = sum(parameter.numel() for parameter in network.head.parameters())
        total = sum(parameter.numel() for parameter in network.parameters())
        network.backbone.recompute = training.recompute
        kept = _bytes_kept(network, objective, images, low=training.precision != "float32")
    with torch.device("meta"):
        counted = _network(config, objective, (height, width), size, dim, machine)
        forward, per_image = forward_flops(counted), training_flops(counted, 1)
    head_flops = counted.head.flops(height * width)
    memory = {name: each * -(-total // shards) for name, each in STATE_BYTES.items()} | {"activations": kept}
    if shards > 1:
        memory["whole at a time"] = _bytes_gathered(network)
    if objective.head_family == "categorical":
        sites = images * height * width
        memory["head"] = min(chunk_budget(machine.device), 4 * sites * size) + 4 * sites * network.head.width
    peak = machine.gpus * machine.tflops * 1e12 * machine.utilisation
    code_bytes = 2 if size <= 2**16 else 4
    views = 2 if config.data.flips else 1
    return Plan(
        recipe=config.name,
        machine=machine,
        grid=(height, width),
        codebook_size=size,
        codebook_dim=dim,
        parameters={"backbone": total - head, "head": head},
        forward_flops={"backbone": forward - head_flops, "head": head_flops},
        training_flops=per_image,
        images_per_process=images,
        memory=memory,
        shards=shards,
        disk=machine.images * views * (code_bytes * height * width + 4),
        steps=training.steps,
        batch_size=training.batch_size,
        seconds=training.steps * training.batch_size * per_image / peak,
    )


def _shards(training: TrainingConfig, machine: PlanOptions) -> int:
    """Processes that hold one copy of the state together.

    Raises:
        InputError: ``training.shards`` does not divide the number of processes.
    """
    if training.parallel == "ddp":
        return 1
    if training.parallel == "fsdp":
        return machine.gpus
    shards = training.shards or min(machine.gpus, machine.gpus_per_machine)
    if machine.gpus % shards:
        raise InputError(f"training.shards divides the number of GPUs; given {shards} and {machine.gpus}")
    return shards


def _bytes_gathered(network: PurrceptionTransformer) -> int:
    """What FSDP2 holds beside its shards: what is no block, and two blocks; gradients of the former and of one."""
    block = sum(parameter.numel() for parameter in network.backbone.blocks[0].parameters())
    rest = sum(parameter.numel() for parameter in network.parameters()) - len(network.backbone.blocks) * block
    return 4 * (2 * rest + 3 * block)


def _token_sizes(config: RunConfig) -> tuple[tuple[int, int], int, int]:
    """((h, w), K, D) of the tokens that the run learns."""
    if config.tokenizer.path:
        tokenizer = VQTokenizer.load(config.tokenizer.path)
        size, dim = tokenizer.codebook.shape
        downsampling = tokenizer.downsampling
    elif config.tokenizer.arch:
        public = PUBLIC_TOKENIZERS[config.tokenizer.arch]
        size, dim = public.codebook_size, public.codebook_dim
        downsampling = 2 ** (len(public.multipliers) - 1)
    else:
        model = config.tokenizer.model
        size, dim, downsampling = model.codebook_size, model.codebook_dim, model.downsampling
    side = config.data.image_size // downsampling
    config.network.tokens((side, side))
    return (side, side), size, dim


def _network(
    config: RunConfig, objective: Objective, grid: tuple[int, int], size: int, dim: int, machine: PlanOptions
) -> PurrceptionTransformer:
    classes = machine.classes if config.data.classes is None else config.data.classes
    return PurrceptionTransformer(
        grid=grid,
        codebook_size=size,
        codebook_dim=dim,
        num_classes=classes,
        input_channels=dim + objective.extra_channels,
        **asdict(config.network),
        head_kind="regression" if objective.head_family == "regression" else config.head.kind,
        head_rank=config.head.rank,
        evidence=config.head.evidence,
    )


def _bytes_kept(network: PurrceptionTransformer, objective: Objective, images: int, *, low: bool) -> int:
    """What a forward pass, under bfloat16 autocast if ``low``, keeps for its backward pass, weights left out."""
    own = {parameter.untyped_storage()._cdata for parameter in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    grid, channels = network.grid, network.codebook.shape[1]
    batch = TrainingBatch(
        indices=torch.zeros(images, *grid, dtype=torch.long),
        labels=torch.zeros(images, dtype=torch.long),
        noise=torch.zeros(images, channels, *grid),
        time=torch.zeros(images),
    )
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=low):
        total = objective.loss(network, batch).total
    assert total.requires_grad
    return sum(sizes.values())
