"""Tokenizers: images to grids of codebook indices and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.tokenizers.convert import convert_tokenizer, known_arch, open_tokenizer
    from purrception.tokenizers.public import PUBLIC_TOKENIZERS, PublicTokenizer
    from purrception.tokenizers.settings import AdversarialConfig, LossConfig, TokenizerTrainingConfig, VQConfig
    from purrception.tokenizers.training import train_tokenizer
    from purrception.tokenizers.vq import UnnormalisedVQModel, VQTokenizer, fingerprint

__getattr__, __dir__ = lazy_names(__name__)
