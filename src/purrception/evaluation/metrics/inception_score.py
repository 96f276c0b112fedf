"""The Inception score (IS) from a classifier's logits, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from purrception.utils.keyed_rng import Stream, keyed_rng

PARTS, PART_SIZE = 10, 5000


def inception_score(logits: Tensor, splits: int | None = None, seed: int = 0) -> tuple[float, float]:
    """exp of the mean divergence KL(p(y|x) ‖ p(y)) of a classifier's predictions (IS, arXiv 1606.03498).

    Args:
        logits: ``[n, classes]``; of Inception without the bias of its last layer, as the original has it.
        splits: parts over which the score is averaged; default: :func:`score_parts`.
        seed: of the order in which images are dealt to the parts, since files often come class by class.

    Returns:
        Mean and standard deviation over the parts.
    """
    splits = score_parts(len(logits)) if splits is None else splits
    order = keyed_rng(seed, Stream.EVALUATION, part=2).permutation(len(logits))
    log_shares = logits[torch.from_numpy(order)].double().log_softmax(dim=1)
    scores = []
    for part in log_shares.tensor_split(min(splits, len(logits))):
        marginal = part.exp().mean(dim=0, keepdim=True)
        divergence = (part.exp() * (part - marginal.log())).sum(dim=1)
        scores.append(divergence.mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def score_parts(count: int) -> int:
    """Parts that an Inception score of ``count`` images is averaged over: 10, or ADM's of 5000 from 50 000 on.

    The score depends on the size of a part: with few images in it the marginal follows each prediction, and the
    score is too small.
    """
    return min(count, max(PARTS, count // PART_SIZE))
