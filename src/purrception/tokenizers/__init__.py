"""Tokenizers: images ↔ grids of codebook indices."""

from purrception.tokenizers.settings import AdversarialConfig, LossConfig, TokenizerTrainingConfig
from purrception.tokenizers.training import train_tokenizer
from purrception.tokenizers.vq import Tokenizer, UnnormalisedVQModel, VQConfig, VQTokenizer, fingerprint

__all__ = [
    "AdversarialConfig",
    "LossConfig",
    "Tokenizer",
    "TokenizerTrainingConfig",
    "UnnormalisedVQModel",
    "VQConfig",
    "VQTokenizer",
    "fingerprint",
    "train_tokenizer",
]
