"""Which codes samples use, compared with the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.tokenizers.quality import perplexity


@dataclass(frozen=True)
class CodebookUse:
    """A comparison of the histograms of codes in data and in samples."""

    data_codes: int
    """Codes that occur in the data."""
    data_perplexity: float
    """exp(entropy) of the data's histogram: the effective number of codes."""
    sample_codes: int
    sample_perplexity: float
    never: Tensor
    """Codes of the data that no sample has, the most frequent in the data first; long ``[m]``."""
    over: Tensor
    """Codes by the ratio of their share in samples to that in the data, largest first; only codes at least half as
    frequent as the mean code in either. Long ``[k]``."""
    ratio: Tensor
    """Share in samples over share in the data of every code, float64 ``[K]``; 1 if neither has it."""
    divergence: float
    """Jensen–Shannon divergence of the histograms, nats, 0 to ln 2."""

    @classmethod
    def of(cls, data: Tensor, samples: Tensor) -> CodebookUse:
        """From the counts of each code, ``[K]`` each."""
        data, samples = data.double(), samples.double()
        p, q = data / data.sum(), samples / samples.sum()
        # Half a count is added to each, so that a rare code that is missing by chance has no infinite ratio.
        smooth = [(counts + 0.5) / (counts + 0.5).sum() for counts in (samples, data)]
        either = (data + samples) > 0
        ratio = torch.where(either, smooth[0] / smooth[1], 1.0)
        common = torch.maximum(p, q) >= 0.5 / max(int(either.sum()), 1)
        never = ((data > 0) & (samples == 0)).nonzero()[:, 0]
        candidates = common.nonzero()[:, 0]
        return cls(
            data_codes=int((data > 0).sum()),
            data_perplexity=perplexity(data),
            sample_codes=int((samples > 0).sum()),
            sample_perplexity=perplexity(samples),
            never=never[data[never].argsort(descending=True)],
            over=candidates[ratio[candidates].argsort(descending=True)],
            ratio=ratio,
            divergence=jensen_shannon(p, q),
        )


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """½ KL(p ‖ m) + ½ KL(q ‖ m) with m their mean, nats, of distributions ``[K]``."""
    entropies = [float(torch.special.entr(one.double()).sum()) for one in ((p + q) / 2, p, q)]
    return max(entropies[0] - (entropies[1] + entropies[2]) / 2, 0.0)


def histogram(indices: Tensor, codes: int) -> Tensor:
    """Counts of codes in grids, long ``[…]`` → float64 ``[K]``."""
    return indices.flatten().bincount(minlength=codes).double()


@dataclass(frozen=True)
class CodeClassifier:
    """Naive Bayes classifier on the codes of a grid, which needs neither images nor training.

    ln p(y | c) = Σ_i ln p(c_i | y, i) + const, from counts per class and site, with one more count spread over all
    codes. Counts are taken one site at a time when they are needed, since a table of classes × sites × codes would
    have 17 billion entries for ImageNet.
    """

    grids: Tensor
    """Training grids, long ``[n, h, w]``."""
    labels: Tensor
    """Their labels, long ``[n]``."""
    classes: int
    codes: int

    def predict(self, grids: Tensor) -> Tensor:
        """The most probable class of grids, long ``[m, h, w]`` → long ``[m]``."""
        flat = grids.flatten(1)
        members = self.labels.bincount(minlength=self.classes).double()
        scores = -flat.shape[1] * (members + 1).log().expand(len(flat), -1)
        for codes, known in zip(flat.T, self.grids.flatten(1).T, strict=True):
            same = (codes[:, None] == known[None]).double()
            counts = same.new_zeros(scores.shape).index_add_(1, self.labels, same)
            scores = scores + (counts + 1 / self.codes).log()
        return scores.argmax(dim=1)
