"""Numbers for people, in the unit that fits."""

from __future__ import annotations

Units = tuple[tuple[float, str], ...]
"""(size, name), smallest first."""
COUNTS: Units = ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " G"), (1e12, " T"))
FLOPS: Units = tuple((1e3**power, f" {prefix}FLOP") for power, prefix in enumerate(("", *"kMGTPEZ")))
BYTES: Units = tuple(
    (1024.0**power, f" {prefix}B") for power, prefix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi"))
)
TIMES: Units = ((1.0, " seconds"), (60.0, " minutes"), (3600.0, " hours"), (86_400.0, " days"))


def in_units(value: float, units: Units) -> str:
    """``value`` to three digits in the largest unit that it reaches, such as ``1.5 GiB``; else in the smallest."""
    size, name = next((unit for unit in reversed(units) if abs(value) >= unit[0]), units[0])
    number = value / size
    return f"{number:.0f}{name}" if abs(number) >= 999.5 else f"{number:.3g}{name}"
