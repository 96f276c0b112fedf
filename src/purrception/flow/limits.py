"""What settings of sampling may be, for the classes that they become and for a command that has yet to make them.

This needs no PyTorch, so that a command can refuse its options at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from purrception.utils.errors import InputError, unknown_name

SOLVER_NAMES = ("euler", "heun", "midpoint", "dpmpp_2m", "stochastic", "dopri5")
"""Every solver; :data:`purrception.flow.solvers.SOLVERS` says which function each is."""
LAST_STEP_NAMES = ("nearest", "argmax", "draw")
"""Every last step; :data:`purrception.flow.last_step.LAST_STEPS` says which function each is."""
SPACES = ("logits", "mean")
"""Where guidance may act."""


def check_named(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse an unknown name; the nearest known one is suggested."""
    if name not in known:
        raise unknown_name(kind, name, known)


def check_eta(eta: float) -> None:
    """Refuse a share of noise that is none."""
    if not 0 <= eta <= 1:
        raise InputError(f"eta is between 0 (Euler) and 1 (ancestral); given {eta}")


def check_tolerances(rtol: float, atol: float) -> None:
    """Refuse tolerances that nothing can meet."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < math.inf:
            raise InputError(f"{name} is a positive number such as 1e-4; given {value}")


def check_truncation(top_k: int, top_p: float) -> None:
    """Refuse a truncation that would keep no code."""
    if top_k < 0:
        raise InputError(f"top_k is at least 1, or 0 to keep every code; given {top_k}")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is above 0 and at most 1, which keeps every code; given {top_p}")


def check_guidance(scale: float, interval: tuple[float, float], space: str) -> None:
    """Refuse a scale that is not finite, an interval outside of time, and an unknown space."""
    if not math.isfinite(scale):
        raise InputError(f"guidance is a finite number; given {scale}")
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise InputError(f"the guidance interval lies within 0 to 1, low end first; given {interval}")
    check_named("guidance space", space, SPACES)
