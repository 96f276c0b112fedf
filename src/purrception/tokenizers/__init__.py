"""Tokenizers: images ↔ grids of codebook indices."""

from purrception.tokenizers.training import TokenizerTrainingConfig, train_tokenizer
from purrception.tokenizers.vq import Tokenizer, VQConfig, VQTokenizer, fingerprint

__all__ = [
    "Tokenizer",
    "TokenizerTrainingConfig",
    "VQConfig",
    "VQTokenizer",
    "fingerprint",
    "train_tokenizer",
]
