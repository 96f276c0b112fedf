"""Confidence intervals of 95 %: of means, shares and other metrics, and of the difference of two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from purrception.utils.packages import require

LEVEL = 0.95
NORMAL_QUANTILE = 1.959964
"""How many standard errors an interval of 95 % reaches to either side."""
DIFFERENCE = math.sqrt(2)
"""The interval of a difference of two independent values is this many times as wide as that of one."""


def t_quantile(degrees: int) -> float:
    """Student's t: how many estimated standard errors an interval of 95 % reaches to either side."""
    return float(require("scipy.special", "intervals").stdtrit(degrees, 0.5 + LEVEL / 2))


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of ``count`` independent images: (low, high), with a width at 0 and 1, too."""
    spread = NORMAL_QUANTILE**2 / count
    centre = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return (0.0 if share == 0 else centre - reach), (1.0 if share == 1 else centre + reach)


def jackknife_reach(values: Sequence[float]) -> float:
    """Half the width of the interval of a metric, from its values without each of several equal groups of images.

    The deletion of groups estimates the variance of any metric of images that changes smoothly with them, at about
    the count that it is used at, where its parts would have another bias (Shao & Wu, 1989).
    """
    groups = len(values)
    return t_quantile(groups - 1) * float(np.std(values)) * math.sqrt(groups - 1)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds 95 % of the values of a bootstrap: (low, high)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
