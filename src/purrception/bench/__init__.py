"""Speed and memory, measured in the same run as those of a plain reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.bench.config import BenchConfig
    from purrception.bench.report import Report
    from purrception.bench.run import bench

__getattr__, __dir__ = lazy_names(__name__)
