"""Peak speeds of GPUs."""

from __future__ import annotations

from purrception.utils.errors import InputError

PEAK_TFLOPS = {"A100": 312.0, "L40S": 362.0, "H100": 989.0, "H100 PCIe": 756.0, "H200": 989.0, "B200": 2250.0}
"""Dense bfloat16 peak in TFLOP/s by a part of the GPU's name, from NVIDIA's data sheets."""
SLOWEST, FASTEST = 1e-6, 1e9
"""Range of peak speeds that are accepted, TFLOP/s."""


def known_peak(gpu: str) -> float | None:
    """Dense bfloat16 peak of a GPU in TFLOP/s, by the longest known name that is part of ``gpu``, if any."""
    found = [name for name in PEAK_TFLOPS if name.casefold() in gpu.casefold()]
    return PEAK_TFLOPS[max(found, key=len)] if found else None


def check_tflops(tflops: float) -> None:
    """Refuse a peak speed out of range.

    Raises:
        InputError: it is not a number from 1e-6 to 1e9.
    """
    if not SLOWEST <= tflops <= FASTEST:  # also true of NaN
        raise InputError(f"tflops must be a speed from {SLOWEST:g} to {FASTEST:g} TFLOP/s; given {tflops:g}")
