"""The network: a DiT backbone and a head."""

from purrception.models.cost import TRAINING_PASSES, forward_flops, training_flops
from purrception.models.dit import DIT_SIZES, DiT, DiTConfig
from purrception.models.fused import check_kernel
from purrception.models.head import (
    HEADS,
    CategoricalHead,
    FactoredHead,
    GeometricHead,
    Head,
    HeadConfig,
    LinearHead,
    RegressionHead,
    categorical_heads,
)
from purrception.models.logits import chunk_budget
from purrception.models.transformer import PurrceptionTransformer
from purrception.models.vocabulary import Kernel, SoftTargets

__all__ = [
    "DIT_SIZES",
    "HEADS",
    "TRAINING_PASSES",
    "CategoricalHead",
    "DiT",
    "DiTConfig",
    "FactoredHead",
    "GeometricHead",
    "Head",
    "HeadConfig",
    "Kernel",
    "LinearHead",
    "PurrceptionTransformer",
    "RegressionHead",
    "SoftTargets",
    "categorical_heads",
    "check_kernel",
    "chunk_budget",
    "forward_flops",
    "training_flops",
]
