"""The network: a DiT backbone and a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.models.chunked_loss import SoftTargets, plain_loss
    from purrception.models.dit import DiT
    from purrception.models.factored_logits import chunk_budget
    from purrception.models.flops import TRAINING_PASSES, forward_flops, training_flops
    from purrception.models.fused import check_kernel
    from purrception.models.head import (
        HEADS,
        CategoricalHead,
        FactoredHead,
        GeometricHead,
        Head,
        LinearHead,
        RegressionHead,
    )
    from purrception.models.settings import CATEGORICAL_HEADS, DIT_SIZES, DiTConfig, HeadConfig, Kernel
    from purrception.models.transformer import PurrceptionTransformer

__getattr__, __dir__ = lazy_names(__name__)
