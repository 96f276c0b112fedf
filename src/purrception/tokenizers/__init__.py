"""Tokenizers: images ↔ grids of codebook indices."""

from purrception.tokenizers.training import TokenizerTrainingConfig, train_tokenizer
from purrception.tokenizers.vq import Tokenizer, UnnormalisedVQModel, VQConfig, VQTokenizer, fingerprint

__all__ = [
    "Tokenizer",
    "TokenizerTrainingConfig",
    "UnnormalisedVQModel",
    "VQConfig",
    "VQTokenizer",
    "fingerprint",
    "train_tokenizer",
]
