"""Speed and memory on the command line. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import configure, parse, parse_known, target_of


@dataclass(frozen=True)
class BenchOptions:
    """What ``purrception bench`` takes besides the sizes to measure."""

    parts: tuple[str, ...] = ()
    """training, sampling, generation, head, loader, tokenizer; default: all."""
    variants: tuple[str, ...] = ()
    """ours, reference, factored head, …; default: all."""
    vary: str = ""
    """A size to measure at several values, such as codebook-size."""
    values: tuple[str, ...] = ()
    """Its values."""
    json: bool = False
    """Print JSON instead of a table."""
    out: str = ""
    """Folder for report.md and report.json; default: only print."""


def bench(arguments: list[str]) -> None:
    """``purrception bench``: speed and memory beside a straightforward reference."""
    from purrception.bench import BenchConfig
    from purrception.bench import bench as run_bench
    from purrception.cli import VERBS

    verb = VERBS["bench"]
    options, rest = parse_known(BenchOptions, verb, arguments)
    vary = options.vary.replace("-", "_")
    report = run_bench(parse(BenchConfig, verb, rest), options.parts, options.variants, vary, options.values)
    print(report.json() if options.json else report.markdown(), flush=True)
    if options.out:
        report.write(Path(options.out))


def plan(arguments: list[str]) -> None:
    """``purrception plan``: what a run will cost."""
    from purrception.cli import VERBS
    from purrception.experiment.plan import PlanOptions
    from purrception.experiment.plan import plan as make_plan

    verb = VERBS["plan"]
    target, rest = target_of(verb, arguments)
    options, rest = parse_known(PlanOptions, verb, ["--help"] if target == "--help" else rest)
    made = make_plan(configure(verb, target, rest, dry=True), options)
    print(made.json() if options.json else made.text())
