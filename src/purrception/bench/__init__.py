"""Speed and memory, measured in the same run as those of a plain reference."""

from purrception.bench.config import BenchConfig
from purrception.bench.report import Report
from purrception.bench.run import bench
