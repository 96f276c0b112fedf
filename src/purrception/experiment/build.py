"""What a configuration describes: its network, and the pipeline around the trained weights."""

from __future__ import annotations

import sys

import torch

from purrception.experiment.config import RunConfig
from purrception.flow import build_objective
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.scheduler import PurrceptionScheduler
from purrception.models import CategoricalHead, PurrceptionTransformer
from purrception.tokenizers import VQTokenizer
from purrception.tokens import Manifest


def empty_network(
    config: RunConfig, grid: tuple[int, int], codebook_size: int, codebook_dim: int, num_classes: int
) -> PurrceptionTransformer:
    """The network that a configuration describes, for codes of these sizes, with freshly initialised weights."""
    objective = build_objective(config.objective)
    return PurrceptionTransformer.from_settings(
        config.network,
        config.head.for_family(objective.head_family),
        grid=grid,
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        num_classes=num_classes,
        input_channels=codebook_dim + objective.extra_channels,
        token_embedding=objective.token_embedding,
    )


def build_network(config: RunConfig, manifest: Manifest, tokenizer: VQTokenizer) -> PurrceptionTransformer:
    """The network of a run, with weights that its seed determines, holding the codebook.

    The codebook is standardised unless ``config.tokenizer.standardise`` is off. Token shards hold indices and
    the statistics for standardising, so that the same shards serve both.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = empty_network(
            config, manifest.grid, manifest.codebook_size, manifest.codebook_dim, manifest.num_classes
        )
    codebook = tokenizer.codebook
    network.set_codebook(manifest.standardisation.apply(codebook) if config.tokenizer.standardise else codebook)
    return network


def in_one_chunk(network: PurrceptionTransformer) -> None:
    """Have the head compute all logits at once: where tensors are shapes alone, chunks save no memory."""
    if isinstance(network.head, CategoricalHead):
        network.head.chunk_bytes = sys.maxsize


def build_pipeline(
    config: RunConfig, tokenizer: VQTokenizer, manifest: Manifest, network: PurrceptionTransformer
) -> PurrceptionPipeline:
    """A pipeline around trained weights, with the run's sampling settings."""
    return PurrceptionPipeline(
        transformer=network,
        vqvae=tokenizer.vq,
        objective=config.objective.name,
        tokenizer_hash=manifest.tokenizer_hash,
        class_names=list(manifest.class_names),
        scheduler=run_scheduler(config),
    )


def run_scheduler(config: RunConfig) -> PurrceptionScheduler:
    """The scheduler with the run's sampling settings, as far as its objective supports them."""
    return PurrceptionScheduler.of(build_objective(config.objective).supported(config.sampling))
