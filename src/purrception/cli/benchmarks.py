"""Speed and memory on the command line. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from purrception.cli.parsing import parse


def bench(arguments: list[str]) -> None:
    """``purrception bench``: speed and memory beside a straightforward reference."""
    from purrception.bench import BenchConfig
    from purrception.bench import bench as run_bench
    from purrception.bench.report import write
    from purrception.cli import VERBS

    @dataclasses.dataclass(frozen=True)
    class BenchOptions(BenchConfig):
        """What ``purrception bench`` takes."""

        parts: tuple[str, ...] = ()
        """training, sampling, head; default: all."""
        json: bool = False
        """Print JSON instead of a table."""
        out: str = ""
        """Folder for report.md and report.json; default: only print."""

    options = parse(BenchOptions, VERBS["bench"], arguments)
    names = [field.name for field in dataclasses.fields(BenchConfig)]
    config = BenchConfig(**{name: getattr(options, name) for name in names})
    report = run_bench(config, options.parts)
    if options.out:
        write(report, Path(options.out))
    print(report.json() if options.json else report.markdown())
