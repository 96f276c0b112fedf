"""The cost of a run, estimated before it is started: parameters, operations, memory, disk and time.

The network is built on the meta device, and what a step keeps for its backward pass is added up in fake tensors.
Images are counted if they are there, and speed is measured if the run would train on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from purrception.experiment.build import empty_network, in_one_chunk
from purrception.experiment.config import RunConfig, TokenizerConfig
from purrception.experiment.plan.images import Manifests, count_images, prepared_manifests
from purrception.experiment.plan.report import Plan
from purrception.experiment.plan.speed import Speed, find_peak, is_small_step, measured_step
from purrception.experiment.settings import PlanOptions
from purrception.flow import Objective, build_objective
from purrception.models import PurrceptionTransformer, chunk_budget, training_flops
from purrception.models.flops import forward_flops
from purrception.tokenizers import known_arch, open_tokenizer
from purrception.training import TrainingConfig
from purrception.training.batches import blank_batch
from purrception.utils.errors import InputError

Build = Callable[[], PurrceptionTransformer]
"""Makes the network of a run, on whatever device is the default."""
CPU_UTILISATION, GPU_UTILISATION, COMPILED_UTILISATION = 0.5, 0.3, 0.4
"""Shares of the peak that training is assumed to reach if no step is measured: DiT-S/2 reached 0.52 to 0.77 of the
speed of a large product on one core; DiT-XL/2 with 128 images reached 0.29 of an H100's peak, and 0.40 compiled
(docs/results/performance.md)."""
LONGEST_TRAINING = 10**18
"""Seconds."""
STATE_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8, "moving average": 4}
"""Bytes per parameter, in float32; AdamW keeps two moments."""


def plan(config: RunConfig, machine: PlanOptions | None = None) -> Plan:
    """The cost of the run that ``config`` describes on ``machine``.

    Raises:
        InputError: the batch cannot be shared evenly, sizes do not fit each other, images are missing, or the
            training would take too long for a number.
    """
    machine = machine or PlanOptions()
    training, gpus = config.training, machine.gpus or 1
    if training.batch_size % (gpus * training.accumulation):
        raise InputError(
            f"a batch of {training.batch_size} cannot be shared by {gpus} GPUs in {training.accumulation} "
            "microbatches: change --training.batch_size or --gpus"
        )
    count = training.batch_size // (gpus * training.accumulation)
    device = _device(training, machine)
    manifests = prepared_manifests(config)
    images = count_images(config, manifests, machine.images, machine.classes)
    grid, size, dim = token_sizes(config, manifests)

    def build() -> PurrceptionTransformer:
        return empty_network(config, grid, size, dim, images.classes)

    with torch.device("meta"):
        network = build()
        forward, per_image = forward_flops(network), training_flops(network, 1)
    head, head_flops = network.head.parameter_count(), network.head.flops(math.prod(grid))
    total = sum(parameter.numel() for parameter in network.parameters())
    shards = _shards(training, machine)
    memory = _memory(build, config, count, shards, device)
    speed = _speed(build, config, machine, device, per_image, sum(memory.values()))
    seconds = training.steps * speed.seconds_per_step
    if not 0 < seconds < LONGEST_TRAINING:
        raise InputError(
            f"the training would take more than {LONGEST_TRAINING:.0e} seconds: lower --training.steps, or raise "
            "--tflops or --utilisation"
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
    """The kind of device that the run would train on."""
    if machine.device != "auto":
        return machine.device
    if machine.gpu or machine.gpus or training.device.startswith("cuda"):
        return "cuda"
    return training.resolve_device().type


def _shards(training: TrainingConfig, machine: PlanOptions) -> int:
    """Number of processes that share one copy of the state.

    Raises:
        InputError: the number of processes is not a multiple of ``training.shards``.
    """
    gpus = machine.gpus or 1
    if training.parallel == "ddp":
        return 1
    if training.parallel == "fsdp":
        return gpus
    shards = training.shards or min(gpus, machine.gpus_per_machine)
    if gpus % shards:
        raise InputError(f"the number of GPUs must be a multiple of training.shards; given {gpus} and {shards}")
    return shards


def token_sizes(config: RunConfig, manifests: Manifests | None) -> tuple[tuple[int, int], int, int]:
    """((h, w), K, D) of the tokens of the run.

    Raises:
        InputError: the image size is not a multiple of the tokenizer's downsampling, or the grid of the patch
        size.
    """
    if manifests is not None:
        train = manifests[0]
        grid, size, dim = train.grid, train.codebook_size, train.codebook_dim
    else:
        size, dim, downsampling = _tokenizer_sizes(config.tokenizer)
        if config.data.image_size % downsampling or not config.data.image_size:
            raise InputError(
                f"data.image_size must be a multiple of the tokenizer's downsampling {downsampling}; given "
                f"{config.data.image_size}"
            )
        side = config.data.image_size // downsampling
        grid = (side, side)
    config.network.patches(grid)
    return grid, size, dim


def _tokenizer_sizes(tokenizer: TokenizerConfig) -> tuple[int, int, int]:
    """(K, D, downsampling) of the tokenizer of the run."""
    if tokenizer.path and not Path(tokenizer.path).is_file():
        loaded = open_tokenizer(tokenizer.path)
        size, dim = loaded.codebook.shape
        return size, dim, loaded.downsampling
    if tokenizer.path or tokenizer.arch:  # the architecture of a checkpoint file determines its sizes
        public = known_arch(tokenizer.arch)
        return public.codebook_size, public.codebook_dim, 2 ** (len(public.multipliers) - 1)
    model = tokenizer.model
    return model.codebook_size, model.codebook_dim, model.downsampling


def _speed(
    build: Build, config: RunConfig, machine: PlanOptions, device: str, flops_per_image: float, memory: int
) -> Speed:
    """Measure training steps here if they are small enough; else assume a share of the peak speed."""
    training, gpus = config.training, machine.gpus or 1
    dtype = torch.bfloat16 if training.takes_bfloat16(device) else torch.float32
    tflops, source, measured = find_peak(device, machine.tflops, machine.gpu, dtype)
    flops = flops_per_image * training.batch_size / gpus
    if machine.utilisation is None and measured and is_small_step(device, tflops, flops, memory):
        own = replace(training, batch_size=training.batch_size // gpus, device=device)
        with torch.random.fork_rng(devices=[]):
            seconds, steps = measured_step(own, build_objective(config.objective), build())
        return Speed(device, tflops, source, 1e-12 * flops / seconds / tflops, steps, seconds)
    on_gpu = COMPILED_UTILISATION if training.compile else GPU_UTILISATION
    utilisation = machine.utilisation or (on_gpu if device == "cuda" else CPU_UTILISATION)
    seconds = flops / (1e12 * tflops * utilisation)
    return Speed(device, tflops, source, utilisation, 0, seconds)


def _memory(build: Build, config: RunConfig, images: int, shards: int, device: str) -> dict[str, int]:
    """Bytes of one process by kind, for a microbatch of ``images``."""
    objective = build_objective(config.objective)
    with FakeTensorMode():
        network = build()
        network.backbone.gradient_checkpointing = config.training.recompute
        in_one_chunk(network)
        kept = _bytes_kept(network, objective, images, low=config.training.takes_bfloat16(device))
    total = sum(parameter.numel() for parameter in network.parameters())
    memory = {name: each * -(-total // shards) for name, each in STATE_BYTES.items()} | {"activations": kept}
    if shards > 1:
        memory["gathered weights"] = _bytes_gathered(network)
    if objective.head_family == "categorical":
        sites, size = images * math.prod(network.grid), len(network.codebook)
        memory["head"] = min(chunk_budget(device), 4 * sites * size) + 4 * sites * network.head.width
    return memory


def _bytes_gathered(network: PurrceptionTransformer) -> int:
    """Bytes that FSDP2 holds besides its shards: two blocks and everything outside the blocks, and the gradients
    of one block and of everything outside."""
    block = sum(parameter.numel() for parameter in network.backbone.blocks[0].parameters())
    rest = sum(parameter.numel() for parameter in network.parameters()) - len(network.backbone.blocks) * block
    return 4 * (2 * rest + 3 * block)


def _bytes_kept(network: PurrceptionTransformer, objective: Objective, images: int, *, low: bool) -> int:
    """Bytes that a forward pass keeps for its backward pass, without weights; under bfloat16 autocast if
    ``low``."""
    own = {parameter.untyped_storage()._cdata for parameter in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=low):
        total = objective.loss(network, blank_batch(network, images)).total
    assert total.requires_grad
    return sum(sizes.values())
