"""``purrception evaluate``. What is heavy is imported when it is needed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from purrception.cli.options import options_of
from purrception.cli.parsing import (
    asks_for_help,
    check_can_draw,
    flat,
    nearest_in,
    parse,
    say,
    say_report,
    say_skipped,
    spelt_out,
    target_of,
)
from purrception.cli.verbs import Verb
from purrception.evaluation.settings import EvaluationConfig, Procedure
from purrception.flow.settings import SamplingConfig
from purrception.training import RunDirectory, is_pipeline
from purrception.training.run_directory import no_run
from purrception.utils.errors import InputError
from purrception.utils.settings import ProcessOptions

if TYPE_CHECKING:
    from purrception.tokens import TokenDataset


@dataclass(frozen=True)
class DiffOptions:
    """Comparing two results, in place of measuring images."""

    diff: tuple[str, ...] = ()
    """The two folders of results to compare."""
    anyway: bool = False
    """Also compare results that were not measured in the same way."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ProcessOptions):
    """What ``purrception evaluate`` takes; what is left out is the run's own setting."""

    evaluation: EvaluationConfig = field(metadata=flat(own="the run's own"))
    procedure: Procedure = field(metadata=flat("device"))
    sampling: SamplingConfig = field(metadata=flat("guidance_scale", own="the run's own"))
    comparison: DiffOptions = field(default_factory=DiffOptions, metadata=flat())
    out: str = ""
    """Folder for the report. Default: RUN/evaluation/000, 001, …, or evaluations/000, … for images."""


def evaluate(verb: Verb, arguments: list[str]) -> None:
    """Measure the images of a run or a folder, or compare two results."""
    if "--diff" in arguments and not asks_for_help(arguments):
        _diff(parse(DiffOptions, replace(verb, name=f"{verb.name} --diff", usage="A B"), arguments))
        return
    target, rest = target_of(verb, arguments)
    if not target or not _holds_images(Path(target)):
        _evaluate_run(verb, target, rest)
    else:
        _evaluate_images(verb, Path(target), rest)


def _holds_images(target: Path) -> bool:
    of_a_model = RunDirectory(target).config_file.is_file() or is_pipeline(target)
    return target.suffix == ".npz" or (target.is_dir() and not of_a_model)


def _evaluate_run(verb: Verb, target: str, arguments: list[str]) -> None:
    options = parse(EvaluateOptions, verb, arguments)
    if not Path(target).exists():
        raise InputError(f"{no_run(target)}; images are accepted as well: {nearest_in(target)}a folder or an .npz")
    run = RunDirectory.open(target)
    from purrception.data import describe_report
    from purrception.evaluation import evaluate as run_evaluation
    from purrception.experiment.saved_run import load_pipeline, open_tokens, sampling_defaults, saved_config
    from purrception.storage import output_folder
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    check_can_draw()
    config = saved_config(run)
    own = replace(options, evaluation=config.evaluation, sampling=sampling_defaults(target))
    options = parse(EvaluateOptions, verb, arguments, own)
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        pipeline = load_pipeline(target).to(device)
        tokens: dict[str, TokenDataset | None] = {"train": None, "test": None}
        for split in tokens:
            with contextlib.suppress(InputError):  # of a run that has been moved: none
                tokens[split] = open_tokens(config, run, split)
        with output_folder(options.out, run.evaluation) as folder:
            result = run_evaluation(
                pipeline,
                config.data,
                options.evaluation,
                options.sampling,
                folder,
                run.evaluation_samples,
                replace(options.procedure, device=str(device)),
                tokens["train"],
                tokens["test"],
            )
        say_skipped(describe_report(folder))
        say_report(result.markdown(), folder, "Evaluation")


def _evaluate_images(verb: Verb, target: Path, arguments: list[str]) -> None:
    options = parse(EvaluateOptions, verb, arguments)
    _refuse_settings_of_runs(arguments)
    if not options.procedure.reference and not options.procedure.save_stats:
        raise InputError(
            f"{target} is no run, so that it holds no real images of its own: give some with --reference (a "
            "folder or an .npz), or keep the statistics of these with --save-stats FILE.npz"
        )
    from purrception.data import describe, describe_report
    from purrception.evaluation import evaluate_images
    from purrception.evaluation.run import save_reference
    from purrception.storage import output_folder
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    check_can_draw()
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        procedure = replace(options.procedure, device=str(device))
        if not procedure.reference:
            file, skipped = save_reference(target, options.evaluation, procedure)
            say(f"statistics: {file}")
            say_skipped(describe(skipped))
            return
        with output_folder(options.out, Path("evaluations")) as folder:
            result = evaluate_images(target, options.evaluation, folder, procedure)
        say_skipped(describe_report(folder))
        say_report(result.markdown(), folder, "Evaluation")


def _refuse_settings_of_runs(arguments: list[str]) -> None:
    """Options about sampling mean nothing where nothing is sampled."""
    about_runs = {option.name for option in options_of(SamplingConfig)}
    about_runs |= {"--num", "--guidances", "--labels", "--truncate", "--save-images", "--training-images"}
    given = [word.split("=")[0] for word in spelt_out(EvaluateOptions, arguments)]
    if named := ", ".join(word for word in given if word in about_runs):
        raise InputError(f"these images are already there; {named} say how a run makes some: leave them out")


def _diff(options: DiffOptions) -> None:
    """Compare the results in two folders."""
    if len(options.diff) != 2:
        raise InputError(
            "usage: purrception evaluate --diff A B [--anyway], where A and B are folders of results; "
            f"given {len(options.diff)}"
        )
    from purrception.evaluation.diff import compare_results

    first, second = map(Path, options.diff)
    print(compare_results(first, second, anyway=options.anyway))
