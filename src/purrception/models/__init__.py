"""The network: a DiT backbone and a head."""

from purrception.models.chunked_loss import SoftTargets, plain_loss
from purrception.models.dit import DIT_SIZES, DiT, DiTConfig
from purrception.models.factored_logits import chunk_budget
from purrception.models.flops import TRAINING_PASSES, forward_flops, training_flops
from purrception.models.fused import Kernel, check_kernel
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
from purrception.models.transformer import PurrceptionTransformer
