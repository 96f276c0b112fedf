"""Top-k and top-p truncation of the posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.flow.limits import check_truncation


@dataclass(frozen=True)
class Truncation:
    """Which codes a posterior may keep.

    Raises:
        InputError: top_k below 0, or top_p outside (0, 1].
    """

    top_k: int = 0
    """Number of codes to keep, the most probable ones; 0: all."""
    top_p: float = 1.0
    """Of those, the smallest set whose probability reaches p (nucleus sampling, arXiv 1904.09751)."""

    def __post_init__(self) -> None:
        """Refuse values that would keep no code."""
        check_truncation(self.top_k, self.top_p)


def keeps_all(truncation: Truncation | None) -> bool:
    """Whether it leaves no code out."""
    return truncation is None or (truncation.top_k == 0 and truncation.top_p == 1)


def truncate(logits: Tensor, truncation: Truncation) -> Tensor:
    """Log-probabilities of the truncated posterior: renormalised over the codes kept, −∞ for the others.

    Args:
        logits: ``[…, K]``, after temperature; log-probabilities do as well.
        truncation: which codes to keep: top_k first, then top_p of the remaining probability.

    Returns:
        float32 ``[…, K]``.
    """
    logits = logits.float()
    size = logits.shape[-1]
    count = min(truncation.top_k or size, size)
    if count == size and truncation.top_p == 1:
        return logits.log_softmax(-1)
    kept, codes = logits.topk(count, dim=-1)
    kept = kept.log_softmax(-1)
    if truncation.top_p < 1:
        ahead = F.pad(kept.exp().cumsum(-1)[..., :-1], (1, 0))  # nothing is ahead of the first code: it stays
        kept = kept.masked_fill(ahead >= truncation.top_p, -torch.inf).log_softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, codes, kept)


ALL_CODES = Truncation()
"""Keeps every code."""
