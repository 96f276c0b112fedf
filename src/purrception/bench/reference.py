"""The method written down plainly, with every logit in memory: what our own code is measured against.

It follows the paper's pseudocode: full logits ``[B, h, w, K]``, a cross-entropy, a logsumexp, a softmax, a
product with the codebook.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.models import CategoricalHead, LinearHead
from purrception.models.head import to_sites


def full_logits(head: CategoricalHead, features: Tensor) -> Tensor:
    """All logits of the linear head, ``[B, h, w, K]``, in the features' precision."""
    assert isinstance(head, LinearHead)
    return to_sites(head.linear(features), head.patch_size)


def reference_loss(head: CategoricalHead, features: Tensor, targets: Tensor, z_loss: float) -> Tensor:
    """Mean cross-entropy and z-loss, by autograd over full logits."""
    logits = full_logits(head, features).float()
    cross_entropy = F.cross_entropy(logits.flatten(0, 2), targets.flatten())
    return cross_entropy + z_loss * logits.logsumexp(dim=-1).square().mean()


def reference_mean(head: CategoricalHead, features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Posterior mean ``[B, D, h, w]`` and entropy ``[B, h, w]``."""
    probabilities = (full_logits(head, features).float() / temperature).softmax(dim=-1)
    entropy = -torch.xlogy(probabilities, probabilities).sum(dim=-1)
    return (probabilities @ head.codebook).permute(0, 3, 1, 2), entropy
