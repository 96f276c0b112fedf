"""The network: a DiT backbone and a vocabulary head."""

from purrception.models.dit import DIT_SIZES, DiT, DiTConfig
from purrception.models.head import LinearHead
from purrception.models.transformer import PurrceptionTransformer

__all__ = ["DIT_SIZES", "DiT", "DiTConfig", "LinearHead", "PurrceptionTransformer"]
