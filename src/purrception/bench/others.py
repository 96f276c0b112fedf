"""Other implementations of the cross-entropy of a linear head that do not hold full logits, to compare with
ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.models import CategoricalHead
from purrception.utils.packages import require

HeadLoss = Callable[[CategoricalHead, Tensor, Tensor], Tensor]
"""(head, features, targets) → the mean loss."""
GroupLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(rows ``[N, r]``, weight ``[K, r]``, bias ``[K]``, targets ``[N]``) → their mean loss."""


def others() -> dict[str, HeadLoss]:
    """Those available here, by name: torch's own since 2.13, and liger-kernel if it is installed and there is a
    GPU."""
    found: dict[str, HeadLoss] = {}
    if hasattr(F, "linear_cross_entropy"):
        found["linear_cross_entropy, no z-loss"] = linear_cross_entropy
    if torch.cuda.is_available() and find_spec("liger_kernel") is not None:
        found["liger"] = liger
    return found


def linear_cross_entropy(head: CategoricalHead, features: Tensor, targets: Tensor) -> Tensor:
    """torch's own, in chunks over sites; it has no z-loss."""
    options = torch.nn.LinearCrossEntropyOptions()

    def of_group(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return F.linear_cross_entropy(rows, weight, targets, linear_bias=bias, options=options)

    return _mean_over_groups(head, features, targets, of_group)


def liger(head: CategoricalHead, features: Tensor, targets: Tensor) -> Tensor:
    """liger-kernel's, in Triton, with z-loss."""
    kernels = require("liger_kernel.transformers", "the variant liger")
    fused = kernels.LigerFusedLinearCrossEntropyLoss(lse_square_scale=1e-5)

    def of_group(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return fused(weight, rows, targets, bias)

    return _mean_over_groups(head, features, targets, of_group)


def _mean_over_groups(head: CategoricalHead, features: Tensor, targets: Tensor, of_group: GroupLoss) -> Tensor:
    """The mean over the sites of a patch, with one call for each, since no implementation knows of patches."""
    logits = head.factors(features)
    device = features.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    rows = logits.rows.to(low)
    groups = zip(logits.weight.to(low), logits.bias.to(low), logits.split(targets), strict=True)
    return torch.stack([of_group(rows, weight, bias, own) for weight, bias, own in groups]).mean()
