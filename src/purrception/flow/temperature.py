"""The temperature of the posterior, as a function of time."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from purrception.utils.errors import InputError, unknown_name


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` when it is positive and finite, else raise :class:`InputError`."""
    if not 0 < temperature < math.inf:
        raise InputError(f"a temperature is a positive number; given {temperature}")
    return temperature


@dataclass(frozen=True)
class TemperatureSchedule:
    """τ over t: through points (t, τ), held constant before the first and after the last.

    Raises:
        InputError: no points, times outside [0, 1] or not increasing, a τ that is not positive and finite.
    """

    points: tuple[tuple[float, float], ...]
    easing: Literal["linear", "cosine"] = "linear"
    """How τ goes from point to point: linearly, or along half a cosine that is flat at both points."""

    def __post_init__(self) -> None:
        """Refuse a schedule that is not a positive function of time."""
        if self.easing not in ("linear", "cosine"):
            raise unknown_name("easing", self.easing, ("linear", "cosine"))
        times = [t for t, _ in self.points]
        inside = bool(times) and all(0 <= t <= 1 for t in times)
        if not inside or any(s <= t for t, s in pairwise(times)):
            raise InputError(f"times of a temperature schedule increase within 0 to 1; given {times}")
        for _, temperature in self.points:
            check_temperature(temperature)

    def __call__(self, t: float) -> float:
        """τ at ``t``."""
        after = bisect_right(self.points, t, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (start, first), (end, last) = self.points[after - 1], self.points[after]
        share = (t - start) / (end - start)
        if self.easing == "cosine":
            share = math.sin(math.pi * share / 2) ** 2
        return first + share * (last - first)

    @classmethod
    def parse(cls, text: str | float) -> TemperatureSchedule:
        """The schedule that ``text`` describes.

        ``0.9`` or ``constant:0.9`` · ``linear:1.0:0.7`` and ``cosine:1.0:0.7``, from t = 0 to t = 1 ·
        ``piecewise:0=1.0,0.5=0.8,1=0.6``, straight between the points.

        Raises:
            InputError: another kind (the nearest known one is suggested), a piece that cannot be read, or a
                schedule that reaches a τ that is not positive and finite.
        """
        kind, _, rest = str(text).partition(":")
        if not rest and _is_number(kind):
            kind, rest = "constant", kind
        if kind not in _FORMS:
            raise unknown_name("temperature schedule", kind, _FORMS)
        pieces = _numbers(rest, kind, text)
        if kind == "piecewise":
            return cls(tuple((t, temperature) for t, temperature in pieces))
        values = [value for (value,) in pieces]
        easing: Literal["linear", "cosine"] = "cosine" if kind == "cosine" else "linear"
        return cls(tuple((float(n), value) for n, value in enumerate(values)), easing)


_FORMS = {
    "constant": "constant:0.9",
    "linear": "linear:1.0:0.7",
    "cosine": "cosine:1.0:0.7",
    "piecewise": "piecewise:0=1.0,0.5=0.8,1=0.6",
}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(rest: str, kind: str, text: str | float) -> list[list[float]]:
    """The numbers of each piece: pairs for ``piecewise``, else single ones, as many as the kind takes."""
    pieces = [piece.split("=") for piece in rest.split("," if kind == "piecewise" else ":")]
    width = 2 if kind == "piecewise" else 1
    expected = {"constant": 1, "piecewise": len(pieces)}.get(kind, 2)
    readable = all(len(piece) == width and all(map(_is_number, piece)) for piece in pieces)
    if not readable or len(pieces) != expected:
        raise InputError(f"cannot read the temperature schedule {text!r}: write it like {_FORMS[kind]!r}")
    return [[float(number) for number in piece] for piece in pieces]
