"""Confidence intervals of 95 %: of a mean over few repetitions, and of the difference of two such means."""

from __future__ import annotations

import math

from purrception.utils.packages import require

LEVEL = 0.95
DIFFERENCE = math.sqrt(2)
"""The interval of a difference of two independent values is this many times as wide as that of one."""


def t_quantile(degrees: int) -> float:
    """Student's t: how many estimated standard errors an interval of 95 % reaches to either side."""
    return float(require("scipy.special", "intervals").stdtrit(degrees, 0.5 + LEVEL / 2))
