"""``purrception bench``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from purrception.bench.config import BenchConfig
from purrception.cli.parsing import flat, parse
from purrception.cli.verbs import Verb


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What ``purrception bench`` takes."""

    parts: tuple[str, ...] = ()
    """What to measure: training, sampling, generation, head, loader, tokenizer; default: all."""
    variants: tuple[str, ...] = ()
    """Which variants: ours, reference, factored head, …; default: all."""
    vary: str = ""
    """Name of a size to measure at several values, such as codebook-size."""
    values: tuple[str, ...] = ()
    """The values of that size."""
    json: bool = False
    """Print JSON instead of a table."""
    out: str = ""
    """Folder for report.md and report.json. Default: print only."""
    benchmark: BenchConfig = field(default_factory=BenchConfig, metadata=flat())


def bench(verb: Verb, arguments: list[str]) -> None:
    """Measure speed and memory."""
    options = parse(BenchOptions, verb, arguments)
    from purrception.bench import bench as run_bench
    from purrception.utils.terminal import for_terminal

    vary = options.vary.replace("-", "_")
    report = run_bench(options.benchmark, options.parts, options.variants, vary, options.values)
    print(report.json() if options.json else for_terminal(report.markdown()), flush=True)
    if options.out:
        report.write(Path(options.out))
