"""Named recipes: functions that return a configuration."""

from __future__ import annotations

from collections.abc import Callable

from purrception.config import RunConfig, TokenizerConfig
from purrception.data import DataConfig
from purrception.errors import unknown_name
from purrception.evaluation import EvaluationConfig
from purrception.flow import SamplingConfig
from purrception.models import DiTConfig
from purrception.tokenizers import TokenizerTrainingConfig, VQConfig
from purrception.training import TrainingConfig


def digits() -> RunConfig:
    """Real handwritten digits, class-conditional; a few minutes on a laptop's processor, no download."""
    return RunConfig(
        name="digits",
        data=DataConfig(source="digits", image_size=16, channels=1),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=256, codebook_dim=4, channels=(32, 32, 64)),
            training=TokenizerTrainingConfig(steps=500),
        ),
        network=DiTConfig(depth=4, width=96, heads=4, patch_size=1),
        training=TrainingConfig(
            steps=3000,
            batch_size=64,
            learning_rate=5e-3,
            betas=(0.9, 0.99),
            weight_decay=0.05,
            decay="cosine",
            ema_decay=0.995,
            validate_every=500,
            sample_every=500,
            checkpoint_every=500,
        ),
        sampling=SamplingConfig(steps=50, temperature=0.9),
        # As many images as the real training set has, so that the distance and its floor are alike biased.
        evaluation=EvaluationConfig(num=1440),
    )


def photos() -> RunConfig:
    """Crops of two colour photographs, class-conditional, K = 1024; minutes on two CPU cores, no download."""
    return RunConfig(
        name="photos",
        data=DataConfig(source="photos", image_size=32, channels=3, test_fraction=0.3),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=1024, codebook_dim=8, channels=(16, 32, 64), normalisation="none"),
            # A batch holds two sites per code: a threshold near that would restart half the codebook.
            training=TokenizerTrainingConfig(steps=1000, batch_size=32, dead_code_threshold=0.25),
        ),
        network=DiTConfig(depth=6, width=128, heads=4, patch_size=1),
        training=TrainingConfig(
            steps=1200,
            batch_size=32,
            learning_rate=2e-3,
            betas=(0.9, 0.99),
            decay="cosine",
            ema_decay=0.995,
        ),
        sampling=SamplingConfig(steps=50, temperature=0.9),
    )


def folder() -> RunConfig:
    """Your own images: class subfolders, or images alone for an unconditional model. Give --data.root."""
    return RunConfig(
        name="folder",
        data=DataConfig(source="folder", image_size=64, channels=3, flips=True, test_fraction=0.05),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=1024, codebook_dim=8, channels=(64, 128, 128, 256), layers=2),
            training=TokenizerTrainingConfig(steps=20_000, learning_rate=5e-4, report_every=500),
        ),
        network=DiTConfig.preset("S/1"),
        training=TrainingConfig(steps=100_000, batch_size=128, checkpoint_every=2500, sample_every=2500),
        sampling=SamplingConfig(steps=50, temperature=0.9),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {"digits": digits, "photos": photos, "folder": folder}


def get_recipe(name: str) -> RunConfig:
    """The recipe of that name.

    Raises:
        InputError: there is none; the nearest known name is suggested.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
