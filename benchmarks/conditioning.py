"""How well methods of conditioning work on small joint distributions, whose exact posterior is known.

    python benchmarks/conditioning.py

Each method (:mod:`purrception.flow.conditioning`) is run with the exact posterior of a few sites with two codes,
so that every error is the method's; the share of a free site's code is printed next to its true probability.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.evaluation.metrics.intervals import t_quantile
from purrception.flow import (
    CONDITIONINGS,
    KnownCodes,
    ObjectiveConfig,
    Posterior,
    SamplingConfig,
    SiteLosses,
    build_objective,
)
from purrception.flow.evidence import Evidence


@dataclass(frozen=True)
class Law:
    """A joint law of the codes of a row of sites."""

    grids: Tensor
    """Every combination that occurs, long ``[n, sites]``."""
    shares: Tensor
    """Its probability, up to a factor, float64 ``[n]``."""

    def given(self, codes: Sequence[int]) -> float:
        """P(the first site is 0 | the others are ``codes``)."""
        fits = (self.grids[:, 1:] == torch.tensor(codes)).all(1)
        return float(self.shares[fits & (self.grids[:, 0] == 0)].sum() / self.shares[fits].sum())


class ExactHead:
    """Says the log-posterior that it is given as features."""

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook

    def posterior(self, features: Tensor, evidence: Evidence | None = None, **_: object) -> Posterior:
        """Of log-probabilities ``[B, 1, sites, K]``."""
        p = features.exp()
        mean = (p @ self.codebook).permute(0, 3, 1, 2)
        entropy = -(p * features.clamp_min(-100)).sum(-1)
        return Posterior(mean, entropy, p.amax(-1), p.argmax(-1))

    def nll(self, features: Tensor, targets: Tensor, evidence: Evidence | None = None) -> SiteLosses:
        """Of log-probabilities ``[B, 1, sites, K]``."""
        nll = -features.gather(-1, targets[..., None])[..., 0]
        return SiteLosses(nll, torch.zeros_like(nll), torch.zeros_like(nll))


class ExactNetwork:
    """Where a network would guess, the exact posterior of each site under a law, in float64."""

    evidence, num_classes = False, 0

    def __init__(self, law: Law) -> None:
        self._law, self.codebook = law, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        self.head = ExactHead(self.codebook)

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, 1, sites]`` → ``[B, 1, 1, sites]``."""
        return self.codebook[indices].permute(0, 3, 1, 2)

    def embed_masked(self, indices: Tensor, masked: Tensor) -> Tensor:
        """The mask path is not asked for here."""
        raise NotImplementedError

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """ln p(c_i | z_t) of ``[B, 1, 1, sites]``, float64 ``[B, 1, sites, 2]``."""
        time, sites = t.double().view(-1, 1, 1), z[:, 0, 0].double()
        evidence = (time * sites[..., None] * self.codebook[:, 0] - 0.5 * time**2) / (1 - time) ** 2
        each = evidence[:, torch.arange(sites.shape[1]), self._law.grids].sum(2) + self._law.shares.log()
        weights = each.log_softmax(1)  # [B, n]
        one_hot = F.one_hot(self._law.grids, 2).bool()  # [n, sites, 2]
        terms = weights[:, :, None, None].masked_fill(~one_hot, -torch.inf)
        return terms.logsumexp(1).clamp_min(-700)[:, None]


class Noise:
    """Float64 noise for ``count`` rows of sites, one draw a step."""

    def __init__(self, count: int, sites: int, seed: int = 0) -> None:
        self._shape, self._seed = (count, 1, 1, sites), seed

    def normal(self, step: int) -> Tensor:
        """Standard normal."""
        generator = torch.Generator().manual_seed(10_000 * self._seed + step)
        return torch.randn(self._shape, generator=generator, dtype=torch.float64)

    def uniform(self, step: int) -> Tensor:
        """Not asked for."""
        raise NotImplementedError


def share_made(
    law: Law, codes: Sequence[int], conditioning: str, count: int = 4000, steps: int = 50, repetitions: int = 10
) -> float:
    """Share of ``count`` samples whose free first site is 0, the others given as ``codes``."""
    objective, network = build_objective(ObjectiveConfig()), ExactNetwork(law)
    sites = len(codes) + 1
    free = torch.zeros(count, 1, sites, dtype=torch.bool)
    free[..., 0] = True
    indices = torch.tensor([0, *codes]).expand(count, 1, sites)
    given = KnownCodes(indices, free, conditioning=conditioning, repetitions=repetitions)
    labels = torch.zeros(count, dtype=torch.long)
    made = objective.generate(
        network, labels, Noise(count, sites), SamplingConfig(num_inference_steps=steps), given
    )
    return float((made.indices[..., 0] == 0).double().mean())


def copies(share: float) -> Law:
    """Two sites that are equal with this probability."""
    unequal = (1 - share) / 2
    shares = torch.tensor([share / 2, share / 2, unequal, unequal], dtype=torch.float64)
    return Law(torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]]), shares)


def rare(context: float) -> Law:
    """The second site is seldom 1; the first then is 0 with probability 0.9, and else 1 with 0.95."""
    shares = [(1 - context) * 0.95, (1 - context) * 0.05, context * 0.1, context * 0.9]
    return Law(torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]]), torch.tensor(shares, dtype=torch.float64))


def witnesses(count: int, share: float) -> Law:
    """A first site, and ``count`` others that repeat it independently with probability ``share`` each."""
    grids = torch.cartesian_prod(*[torch.tensor([0, 1])] * (count + 1))
    right = (grids[:, 1:] == grids[:, :1]).double()
    return Law(grids, torch.where(right.bool(), share, 1 - share).double().prod(1))


def echo(count: int, share: float) -> Law:
    """A first site, and ``count`` others of one code, which is the first's with probability ``share``."""
    grids = torch.tensor([[first, *[other] * count] for first in (0, 1) for other in (0, 1)])
    return Law(grids, torch.where(grids[:, 0] == grids[:, 1], share, 1 - share).double())


LAWS: dict[str, tuple[Law, list[int]]] = {
    "two sites, copies in 90 %": (copies(0.9), [0]),
    "two sites, copies in 99 %": (copies(0.99), [0]),
    "a context that occurs in 2 %": (rare(0.02), [1]),
    "4 independent witnesses, 80 % each, one disagrees": (witnesses(4, 0.8), [0, 0, 0, 1]),
    "4 sites that say the same, right in 70 %": (echo(4, 0.7), [0] * 4),
    "12 sites that say the same, right in 70 %": (echo(12, 0.7), [0] * 12),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000, help="samples")
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    error = t_quantile(arguments.count - 1) * 0.5 / arguments.count**0.5
    print(f"{arguments.count} samples, {arguments.steps} Euler steps; 95 % intervals: at most ± {error:.3f}")
    print(f"| law | exact | {' | '.join(CONDITIONINGS)} |\n|---|---|{'---|' * len(CONDITIONINGS)}")
    for name, (law, codes) in LAWS.items():
        made = [share_made(law, codes, way, arguments.count, arguments.steps) for way in CONDITIONINGS]
        print(f"| {name} | {law.given(codes):.3f} | {' | '.join(f'{share:.3f}' for share in made)} |", flush=True)


if __name__ == "__main__":
    main()
