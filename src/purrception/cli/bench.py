"""``purrception bench``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import parse, parse_known
from purrception.cli.verbs import Verb


@dataclass(frozen=True)
class BenchOptions:
    """What ``purrception bench`` takes besides the sizes to measure."""

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
    """Folder for report.md and report.json; default: print only."""


def bench(verb: Verb, arguments: list[str]) -> None:
    """Measure speed and memory."""
    from purrception.bench import BenchConfig
    from purrception.bench import bench as run_bench
    from purrception.utils.terminal import for_terminal

    options, rest = parse_known(BenchOptions, verb, arguments)
    vary = options.vary.replace("-", "_")
    report = run_bench(parse(BenchConfig, verb, rest), options.parts, options.variants, vary, options.values)
    print(report.json() if options.json else for_terminal(report.markdown()), flush=True)
    if options.out:
        report.write(Path(options.out))
