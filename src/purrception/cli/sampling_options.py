"""How to sample, as the verbs that do so take it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What is left out is the run's own setting."""

    steps: int | None = None
    """Intervals of the time grid."""
    solver: str | None = None
    """euler, heun, midpoint, dpmpp_2m, stochastic or dopri5."""
    grid: str | None = None
    """Where the steps lie: uniform, cosine, shifted or log_snr."""
    temperature: str | None = None
    """τ of the posterior, below 1 sharper: a number, or a schedule over t such as linear:1.0:0.7."""
    top_k: int | None = None
    """Codes kept per site, the most probable ones; 0 keeps all."""
    top_p: float | None = None
    """Probability kept per site, in the fewest codes; 1 keeps all."""
    guidance: float | None = None
    """Strength of the class: 1 conditional, 0 unconditional, above 1 exaggerated."""
    guidance_interval: tuple[float, float] | None = None
    """Times between which guidance holds."""
    last_step: str | None = None
    """How a code is chosen at t = 1: nearest (the paper's), argmax or draw."""
