"""A dry run: everything up to the first training step, on images of noise.

It goes through the stages of a real run, with the same functions: tokenizer, token shards, dataset, network, loss,
gradient, optimiser. Sizes are the recipe's, except that the batch is small and, on a CPU, a network of more than
200 million parameters has fewer blocks. The whole network takes a step as well, at the full batch, on PyTorch's
meta device, which computes shapes only.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from purrception.data import DataConfig, images_to_tensor, open_images
from purrception.experiment.build import build_network, in_one_chunk
from purrception.experiment.checks import check_config
from purrception.experiment.config import RunConfig
from purrception.experiment.run import build_trainer, prepare_tokenizer, prepare_tokens
from purrception.flow import build_objective
from purrception.models import PurrceptionTransformer
from purrception.models.flops import training_flops
from purrception.storage import dump_settings
from purrception.tokenizers import VQTokenizer, known_arch
from purrception.tokens import Manifest
from purrception.training import RunDirectory
from purrception.training.batches import blank_batch
from purrception.utils.errors import InputError
from purrception.utils.text import BYTES, COUNTS, FLOPS, in_units

WHOLE_ON_CPU = 200_000_000
"""Number of parameters up to which the real step is taken with all blocks on a CPU."""
IMAGES_PER_STEP, BLOCKS_OF_LARGE = 2, 2
BYTES_PER_PARAMETER = 20
"""Weights, gradients, AdamW's two moments and the moving average, in float32."""


def dry_run(config: RunConfig) -> str:
    """Go through a run up to the first step, in a temporary folder, and describe it in a few lines.

    Raises:
        InputError: something does not fit; see :func:`purrception.experiment.checks.check_config`.
    """
    rehearsal = _rehearsal(config)
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDirectory.create(Path(temporary) / config.name, dump_settings(rehearsal))
        stand_in = _stand_in(rehearsal)
        check_config(rehearsal, stand_in)
        tokenizer = stand_in or prepare_tokenizer(rehearsal, run)
        if not config.tokenizer.path:
            _tell_apart(tokenizer, rehearsal.data)
        train, held_out = prepare_tokens(rehearsal, run, tokenizer)
        whole = whole_step(config, train.manifest, tokenizer)
        parameters = sum(parameter.numel() for parameter in whole.parameters())
        device = rehearsal.training.resolve_device()
        if parameters > WHOLE_ON_CPU and device.type == "cpu":
            blocks = min(config.network.depth, BLOCKS_OF_LARGE)
            rehearsal = replace(rehearsal, network=replace(config.network, depth=blocks))
        trainer = build_trainer(rehearsal, run, tokenizer, train, held_out)
        metrics = trainer.try_step()
    return "\n".join(
        [
            _describe_tokenizer(config, rehearsal.data, tokenizer, train.manifest),
            _describe_network(config, whole, parameters),
            f"first step  on {device.type}, {rehearsal.network.depth} of {config.network.depth} blocks, "
            f"{IMAGES_PER_STEP} images: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
        ]
    )


def _rehearsal(config: RunConfig) -> RunConfig:
    """The same run on a few images of noise, with one step."""
    data = replace(config.data, source="noise", classes=_classes(config), tokens="", flips=False)
    training = replace(config.training, steps=1, batch_size=IMAGES_PER_STEP, accumulation=1)
    tokenizer = config.tokenizer
    one_step = replace(tokenizer.training, steps=1, batch_size=4)
    return replace(config, data=data, training=training, tokenizer=replace(tokenizer, training=one_step))


def _classes(config: RunConfig) -> int:
    """The number of classes that the configuration expects, else that the images have, else 0."""
    if config.data.classes is not None:
        return config.data.classes
    try:
        return len(open_images(config.data, "train").class_names)
    except InputError:
        return 0


def _stand_in(config: RunConfig) -> VQTokenizer | None:
    """The public tokenizer that a recipe names, with random weights; ``None`` if one is given or trained."""
    if config.tokenizer.path or not config.tokenizer.arch:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return VQTokenizer(known_arch(config.tokenizer.arch).build())


@torch.no_grad()
def _tell_apart(tokenizer: VQTokenizer, data: DataConfig) -> None:
    """Take codes from latents of the noise, which may all have one code of a tokenizer that learned nothing."""
    image, _ = open_images(data, "train")[0]
    latents = tokenizer.latents(images_to_tensor([image])).flatten(2)[0].T
    codes = tokenizer.vq.quantize.embedding.weight
    codes.copy_(latents[torch.arange(len(codes)) % len(latents)])


def whole_step(config: RunConfig, manifest: Manifest, tokenizer: VQTokenizer) -> PurrceptionTransformer:
    """Take one optimiser step of the whole network at the full batch, on the meta device; return the network."""
    training, objective = config.training, build_objective(config.objective)
    with torch.device("meta"):
        network = build_network(config, manifest, tokenizer)
        in_one_chunk(network)
        objective.loss(network, blank_batch(network, training.microbatch)).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        torch.optim.AdamW(network.parameters(), training.learning_rate, training.betas).step()
    return network


def _describe_tokenizer(config: RunConfig, data: DataConfig, tokenizer: VQTokenizer, manifest: Manifest) -> str:
    size, dim = tokenizer.codebook.shape
    kind = config.tokenizer.path or (config.tokenizer.arch and f"{config.tokenizer.arch} with random weights")
    return (
        f"images      noise, {data.image_size}×{data.image_size}, {data.channels} channels, "
        f"{manifest.num_classes or 'no'} classes\n"
        f"tokenizer   {kind or 'trained for one step'}: K = {size}, D = {dim}, "
        f"grid {manifest.grid[0]}×{manifest.grid[1]}"
    )


def _describe_network(config: RunConfig, whole: PurrceptionTransformer, parameters: int) -> str:
    sizes, batch = config.network, config.training.batch_size
    return (
        f"network     DiT, {sizes.depth} blocks, width {sizes.width}, {sizes.heads} heads, patch "
        f"{sizes.patch_size}: {in_units(parameters, COUNTS)} parameters\n"
        f"whole step  at batch {batch}, shapes only (meta device): fits; "
        f"{in_units(training_flops(whole, batch), FLOPS)}, {in_units(parameters * BYTES_PER_PARAMETER, BYTES)} of "
        "float32 training state"
    )
