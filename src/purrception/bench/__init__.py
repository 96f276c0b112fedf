"""Speed and memory, measured beside a straightforward reference in the same run."""

from purrception.bench.config import BenchConfig
from purrception.bench.report import Report, bench

__all__ = ["BenchConfig", "Report", "bench"]
