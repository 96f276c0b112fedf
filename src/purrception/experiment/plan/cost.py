"""What a run will cost before it is started: parameters, operations, memory, disk and time.

The network is built without numbers, and what a step would keep for its backward pass is added up while it
pretends to take one. Images are counted where they are, and speed is measured where the run would train.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from purrception.experiment.config import RunConfig, TokenizerConfig
from purrception.experiment.plan.images import Prepared, count_images, prepared_tokens
from purrception.experiment.plan.record import Plan, PlanOptions
from purrception.experiment.plan.speed import Peak, Speed, measured_step
from purrception.flow import Objective, TrainingBatch, build_objective
from purrception.models import PurrceptionTransformer, chunk_budget, training_flops
from purrception.models.flops import forward_flops
from purrception.tokenizers import known_arch, open_tokenizer
from purrception.training import TrainingConfig
from purrception.utils.errors import InputError

UTILISATION, ON_A_GPU, COMPILED_ON_A_GPU = 0.5, 0.3, 0.4
"""Share of the peak that training is supposed to reach where no step is taken: of a large product's speed DiT-S/2
reached 0.52 to 0.77 on one core; DiT-XL/2 reached 0.29 of an H100's peak and 0.40 compiled, with 128 images
(docs/results/performance.md)."""
FOREVER = 10**18
"""Seconds; the universe is half as old."""
STATE_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8, "moving average": 4}
"""Bytes a parameter, float32; AdamW keeps two moments."""


def plan(config: RunConfig, machine: PlanOptions | None = None) -> Plan:
    """The cost of the run that ``config`` describes on ``machine``.

    Raises:
        InputError: the batch cannot be shared evenly, sizes do not fit each other, images that are named are not
            there, or the time is no number.
    """
    machine = machine or PlanOptions()
    training, objective, gpus = config.training, build_objective(config.objective), machine.gpus or 1
    if training.batch_size % (gpus * training.accumulation):
        raise InputError(
            f"a batch of {training.batch_size} cannot be shared by {gpus} GPUs in "
            f"{training.accumulation} microbatches: change --training.batch_size or --gpus"
        )
    count = training.batch_size // (gpus * training.accumulation)
    device = _device(training, machine)
    tokens = prepared_tokens(config)
    images, (grid, size, dim) = (
        count_images(config, tokens, machine.images, machine.classes),
        _token_sizes(config, tokens),
    )

    def build() -> PurrceptionTransformer:
        return _network(config, objective, grid, size, dim, images.classes)

    with torch.device("meta"):
        counted = build()
        forward, per_image = forward_flops(counted), training_flops(counted, 1)
    head, head_flops = counted.head.parameter_count(), counted.head.flops(math.prod(grid))
    total = sum(parameter.numel() for parameter in counted.parameters())
    shards = _shards(training, machine)
    memory = _memory(build, config, objective, count, shards, device)
    speed = _speed(build, config, objective, machine, device, per_image, sum(memory.values()))
    seconds = training.steps * speed.seconds_per_step
    if not 0 < seconds < FOREVER:
        raise InputError(
            f"the training would take more than {FOREVER:.0e} seconds: fewer --training.steps, more --tflops or "
            "more --utilisation are needed"
        )
    per_row = (2 if size <= 2**16 else 4) * math.prod(grid) + 4
    return Plan(
        recipe=config.name,
        machine=machine,
        images=images,
        grid=grid,
        codebook_size=size,
        codebook_dim=dim,
        parameters={"backbone": total - head, "head": head},
        forward_flops={"backbone": forward - head_flops, "head": head_flops},
        training_flops=per_image,
        images_per_process=count,
        memory=memory,
        shards=shards,
        bytes_per_row=per_row,
        disk=None if images.rows is None else images.rows * per_row,
        steps=training.steps,
        batch_size=training.batch_size,
        speed=speed,
        seconds=seconds,
    )


def _device(training: TrainingConfig, machine: PlanOptions) -> str:
    """The kind of device that the plan is for."""
    if machine.device != "auto":
        return machine.device
    if machine.gpu or machine.gpus:
        return "cuda"
    if training.device.startswith("cuda"):
        return "cuda"
    return training.resolve_device().type


def _shards(training: TrainingConfig, machine: PlanOptions) -> int:
    """Processes that hold one copy of the state together.

    Raises:
        InputError: ``training.shards`` does not divide the number of processes.
    """
    gpus = machine.gpus or 1
    if training.parallel == "ddp":
        return 1
    if training.parallel == "fsdp":
        return gpus
    shards = training.shards or min(gpus, machine.gpus_per_machine)
    if gpus % shards:
        raise InputError(f"training.shards divides the number of GPUs; given {shards} and {gpus}")
    return shards


def _token_sizes(config: RunConfig, tokens: Prepared | None) -> tuple[tuple[int, int], int, int]:
    """((h, w), K, D) of the tokens that the run learns.

    Raises:
        InputError: the tokenizer's downsampling does not divide the images, or the patch the grid.
    """
    if tokens is not None:
        grid, size, dim = tokens[0].grid, tokens[0].codebook_size, tokens[0].codebook_dim
    else:
        size, dim, downsampling = _tokenizer_sizes(config.tokenizer)
        if config.data.image_size % downsampling or not config.data.image_size:
            raise InputError(
                f"data.image_size is a multiple of the tokenizer's downsampling {downsampling}; given "
                f"{config.data.image_size}"
            )
        side = config.data.image_size // downsampling
        grid = (side, side)
    config.network.patches(grid)
    return grid, size, dim


def _tokenizer_sizes(tokenizer: TokenizerConfig) -> tuple[int, int, int]:
    """(K, D, downsampling) of the tokenizer that the run takes."""
    if tokenizer.path and not Path(tokenizer.path).is_file():
        loaded = open_tokenizer(tokenizer.path)
        size, dim = loaded.codebook.shape
        return size, dim, loaded.downsampling
    if tokenizer.path or tokenizer.arch:  # of a checkpoint file the name says enough
        public = known_arch(tokenizer.arch)
        return public.codebook_size, public.codebook_dim, 2 ** (len(public.multipliers) - 1)
    model = tokenizer.model
    return model.codebook_size, model.codebook_dim, model.downsampling


def _network(
    config: RunConfig, objective: Objective, grid: tuple[int, int], size: int, dim: int, classes: int
) -> PurrceptionTransformer:
    return PurrceptionTransformer.from_settings(
        config.network,
        config.head.for_family(objective.head_family),
        grid=grid,
        codebook_size=size,
        codebook_dim=dim,
        num_classes=classes,
        input_channels=dim + objective.extra_channels,
    )


def _speed(
    build: Callable[[], PurrceptionTransformer],
    config: RunConfig,
    objective: Objective,
    machine: PlanOptions,
    device: str,
    flops_per_image: float,
    memory: int,
) -> Speed:
    """From steps taken here where they are small enough, else from the peak and the share of it supposed."""
    training, gpus = config.training, machine.gpus or 1
    peak = Peak.find(device, machine.tflops, machine.gpu, _precision(training, device))
    flops = flops_per_image * training.batch_size / gpus
    if machine.utilisation is None and peak.can_step(device, flops, memory):
        own = replace(training, batch_size=training.batch_size // gpus, device=device)
        with torch.random.fork_rng(devices=[]):
            seconds, steps = measured_step(own, objective, build())
        return Speed(device, peak.tflops, peak.source, 1e-12 * flops / seconds / peak.tflops, steps, seconds)
    on_gpu = COMPILED_ON_A_GPU if training.compile else ON_A_GPU
    utilisation = machine.utilisation or (on_gpu if device.startswith("cuda") else UTILISATION)
    seconds = flops / (1e12 * peak.tflops * utilisation)
    return Speed(device, peak.tflops, peak.source, utilisation, 0, seconds)


def _precision(training: TrainingConfig, device: str) -> torch.dtype:
    return torch.bfloat16 if training.takes_bfloat16(device) else torch.float32


def _memory(
    build: Callable[[], PurrceptionTransformer],
    config: RunConfig,
    objective: Objective,
    images: int,
    shards: int,
    device: str,
) -> dict[str, int]:
    """Bytes of a process by kind, for a microbatch of ``images``."""
    with FakeTensorMode():
        network = build()
        network.backbone.recompute = config.training.recompute
        kept = _bytes_kept(network, objective, images, low=config.training.takes_bfloat16(device))
    total = sum(parameter.numel() for parameter in network.parameters())
    memory = {name: each * -(-total // shards) for name, each in STATE_BYTES.items()} | {"activations": kept}
    if shards > 1:
        memory["whole at a time"] = _bytes_gathered(network)
    if objective.head_family == "categorical":
        sites, size = images * math.prod(network.grid), len(network.codebook)
        memory["head"] = min(chunk_budget(device), 4 * sites * size) + 4 * sites * network.head.width
    return memory


def _bytes_gathered(network: PurrceptionTransformer) -> int:
    """What FSDP2 holds beside its shards: what is no block, and two blocks; gradients of the former and of one."""
    block = sum(parameter.numel() for parameter in network.backbone.blocks[0].parameters())
    rest = sum(parameter.numel() for parameter in network.parameters()) - len(network.backbone.blocks) * block
    return 4 * (2 * rest + 3 * block)


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
