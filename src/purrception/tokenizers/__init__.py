"""Tokenizers: images to grids of codebook indices and back."""

from purrception.tokenizers.convert import convert_tokenizer, known_arch, open_tokenizer
from purrception.tokenizers.public import PUBLIC_TOKENIZERS, PublicTokenizer
from purrception.tokenizers.settings import AdversarialConfig, LossConfig, TokenizerTrainingConfig
from purrception.tokenizers.training import train_tokenizer
from purrception.tokenizers.vq import UnnormalisedVQModel, VQConfig, VQTokenizer, fingerprint
