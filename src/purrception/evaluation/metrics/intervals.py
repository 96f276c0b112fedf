"""Intervals of 95 %: of a mean that a few repetitions tell, and of a difference of two such means."""

from __future__ import annotations

import math

from purrception.utils.packages import require

LEVEL = 0.95
DIFFERENCE = math.sqrt(2)
"""Times the half-width of one figure's interval is that of the difference of two independent ones."""


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """Student's t: how many estimated standard errors an interval of ``level`` reaches to either side."""
    return float(require("scipy.special", "intervals").stdtrit(degrees, 0.5 + level / 2))
