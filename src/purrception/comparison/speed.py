"""How many times fewer steps one training needs than another, with the interval that a few seeds allow.

A curve of measurements goes up and down by chance, so that the step at which it first passes another noisy end
point favours the luckier measurement. Here monotone curves are fitted to both, the target is the quality that both
reach, and the seeds are drawn again to see how far the ratio moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from purrception.comparison.rows import Rows
from purrception.evaluation.metrics.intervals import t_quantile
from purrception.utils.keyed_rng import Stream, keyed_rng

ROUNDS = 400
"""Rounds of the bootstrap over seeds."""
Curve = tuple[np.ndarray, np.ndarray]
"""Positions on an axis, and values of a metric, which fall."""


@dataclass(frozen=True)
class SpeedRatio:
    """How many times less of something A needs than B, up to the quality that both reach."""

    ratio: float
    low: float | None
    """Interval of 95 % over seeds; none with fewer than two of them."""
    high: float | None
    bound: str = ""
    """"at least" where A was there at its first measurement, "at most" where B was; "unknown" where both were, so
    that nothing is known of how much less either needed: the ratio is then 1, without an interval."""

    @classmethod
    def of(cls, logarithm: float, reach: float | None, bound: str) -> SpeedRatio:
        """From the logarithm of the ratio, and how far its interval reaches to either side."""
        if bound == "unknown":
            return cls(1.0, None, None, bound)
        low, high = (None if reach is None else math.exp(logarithm + side * reach) for side in (-1, 1))
        return cls(math.exp(logarithm), low, high, bound)

    @property
    def differs(self) -> bool:
        """Whether 1 lies outside the interval: only then can the two be told apart."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        if self.bound == "unknown":
            return "both at once"
        sign = {"at least": "≥ ", "at most": "≤ "}.get(self.bound, "")
        if self.low is None or self.high is None:
            return f"{sign}{self.ratio:.2f}×, one seed"
        chance = "" if self.differs else ", by chance"
        return f"{sign}{self.ratio:.2f}× ({self.low:.2f} to {self.high:.2f}{chance})"


def falling(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The non-increasing curve nearest to ``values`` in squares, without steps.

    Isotonic regression pools what goes up into flat blocks; each block's value stands at its middle, and between
    the middles the curve is straight.
    """
    blocks: list[np.ndarray] = []  # of adjacent points, pooled with those before them that are not above them
    for point in range(len(values)):
        block = np.array([point])
        while blocks and values[block].mean() >= values[blocks[-1]].mean():
            block = np.concatenate([blocks.pop(), block])
        blocks.append(block)
    return np.interp(positions, *np.transpose([(positions[b].mean(), values[b].mean()) for b in blocks]))


def first_reach(positions: np.ndarray, values: np.ndarray, target: float) -> float:
    """Where a falling curve reaches ``target``, interpolated linearly in the logarithm of the position.

    Infinite where it never does; the first position where it starts there.
    """
    if values[0] <= target:
        return float(positions[0])
    for i in range(1, len(values)):
        if values[i] <= target:
            share = (values[i - 1] - target) / (values[i - 1] - values[i])
            low, high = math.log(positions[i - 1]), math.log(positions[i])
            return math.exp(low + share * (high - low))
    return math.inf


def _log_ratio(a: Curve, b: Curve) -> tuple[float, str]:
    """ln (what B needs / what A needs) up to the worse of the two ends, and whether that is a bound."""
    target = max(float(a[1][-1]), float(b[1][-1]))
    at_once = bool(a[1][0] <= target), bool(b[1][0] <= target)
    bound = {(True, True): "unknown", (True, False): "at least", (False, True): "at most"}.get(at_once, "")
    return math.log(first_reach(*b, target) / first_reach(*a, target)), bound


def speed_ratios(
    rows: Rows, entries: Sequence[str], axis: str, metric: str, rounds: int = ROUNDS
) -> dict[tuple[str, str], SpeedRatio]:
    """How many times less of ``axis`` each entry needs than each other one, by ``metric``, better when lower.

    The target is the worse of both ends, so that both reach it and the ratio of B to A is the inverse. Seeds,
    which share noise and order of the data between entries, are drawn with replacement, the same for both; the
    interval is the deviation of ln ratio over the draws, times √(n/(n − 1)) and Student's quantile of n − 1
    degrees of freedom, which is what n seeds allow.

    Args:
        rows: of a comparison.
        entries: at least two.
        axis: step, seconds or flops.
        metric: one that falls as training goes on.
        rounds: of the bootstrap.
    """

    @cache
    def drawn(entry: str, seeds: tuple[int, ...]) -> list[Curve]:
        """The curve through the mean of all seeds, then those of the draws; fitted once for all pairs."""
        found = {(row["seed"], row["step"]): row for row in rows if row["entry"] == entry}
        steps = sorted({step for _, step in found if all((seed, step) in found for seed in seeds)})
        positions, values = (
            np.array([[found[seed, step][name] for step in steps] for seed in seeds], dtype=float)
            for name in (axis, metric)
        )
        count = len(seeds)
        draws = [np.arange(count)]
        for number in range(rounds if count > 1 else 0):
            draws.append(keyed_rng(0, Stream.EVALUATION, number, part=7).integers(count, size=count))
        means = [(positions[chosen].mean(0), values[chosen].mean(0)) for chosen in draws]
        return [(place, falling(np.log(place), value)) for place, value in means]

    found = {}
    for a, b in combinations(entries, 2):
        of_each = [{row["seed"] for row in rows if row["entry"] == entry} for entry in (a, b)]
        seeds = tuple(sorted(of_each[0] & of_each[1]))
        (centre, bound), *draws = map(_log_ratio, drawn(a, seeds), drawn(b, seeds))
        reach = None
        if draws:
            deviation = float(np.std([ratio for ratio, _ in draws]))
            reach = deviation * math.sqrt(len(seeds) / (len(seeds) - 1)) * t_quantile(len(seeds) - 1)
        found[a, b] = SpeedRatio.of(centre, reach, bound)
        found[b, a] = SpeedRatio.of(
            -centre, reach, {"at least": "at most", "at most": "at least"}.get(bound, bound)
        )
    return found
