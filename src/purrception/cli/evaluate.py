"""``purrception evaluate`` on the command line. Heavy imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from purrception.cli.parsing import override, parse, say, say_skipped, target_of
from purrception.utils.errors import InputError
from purrception.utils.options import TIMEOUT_MINUTES

if TYPE_CHECKING:
    from purrception.tokens import TokenDataset


@dataclass(frozen=True)
class EvaluateOptions:
    """What ``purrception evaluate`` takes. What is left out is the run's own setting."""

    reference: str = ""
    """Real images: test or train (of the run's data; default: test), a folder, token shards, or an .npz."""
    protocol: str = ""
    """Name in the report: adm-train, val or custom; default: by the kind of reference."""
    features: str = ""
    """What distances are measured in: classifier, texture, inception or dinov2."""
    weights: str = ""
    """Of inception (a file) or dinov2 (a folder or hub:OWNER/NAME)."""
    classifier: str = ""
    """A classifier.safetensors of an earlier report; default: one that learns the real images."""
    num: int | None = None
    """Generated images per guidance."""
    guidances: tuple[float, ...] = ()
    """Guidance scales to judge."""
    steps: int | None = None
    """Intervals of the time grid."""
    solver: str | None = None
    """As for sample."""
    grid: str | None = None
    """As for sample."""
    temperature: str | None = None
    """As for sample."""
    guidance_interval: tuple[float, float] | None = None
    """As for sample."""
    labels: Literal["balanced", "data"] = "balanced"
    """Of the generated images: classes take turns, or come as often as in the training shards."""
    truncate: bool | None = None
    """Cut the levels of generated images down to whole numbers instead of rounding them."""
    seed: int | None = None
    """Of the generated images and of the classifier."""
    bootstrap: int = 100
    """Rounds of the intervals, at most 20 above 512 dimensions; 0: no intervals."""
    strict: bool = False
    """Stop at a broken image instead of leaving it out and counting it."""
    cache: str = ""
    """Folder for features; default: purrception/features below the user's cache; none: keep nothing."""
    save_images: Literal["", "png", "npz"] = ""
    """Also write the generated images for other evaluators: PNGs, or one .npz in ADM's layout."""
    save_stats: str = ""
    """Write the reference's statistics to this .npz; beside images without --reference, those of the images."""
    batch_size: int = 128
    """Images sampled at a time; does not change them."""
    device: str = "auto"
    """As for sample."""
    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how long processes wait for one that shows no progress."""
    out: str = ""
    """Folder for the report; default: RUN/evaluation/000, 001, …, or evaluations/000, … for images."""


def evaluate(arguments: list[str]) -> None:
    """``purrception evaluate``: figures with their protocol."""
    from purrception.cli import VERBS

    verb = VERBS["evaluate"]
    if "--diff" in arguments:
        _diff(arguments)
        return
    target, rest = target_of(verb, arguments)
    options = parse(EvaluateOptions, verb, rest)
    from purrception.training import RunDirectory

    if RunDirectory(target).config_file.is_file() or not _holds_images(Path(target)):
        _evaluate_run(target, options)
    else:
        _evaluate_images(Path(target), options)


def _holds_images(target: Path) -> bool:
    from purrception.training import is_pipeline

    return target.suffix == ".npz" or (target.is_dir() and not is_pipeline(target))


def _evaluate_run(target: str, options: EvaluateOptions) -> None:
    from purrception.data import describe_report
    from purrception.evaluation import Procedure
    from purrception.evaluation import evaluate as run_evaluation
    from purrception.experiment.saved_run import load_pipeline, open_tokens, sampling_defaults, saved_config
    from purrception.storage import output_folder
    from purrception.training import RunDirectory
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    run = RunDirectory.open(target)
    config = saved_config(run)
    settings = override(sampling_defaults(target), options)
    protocol = override(config.evaluation, options)
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        procedure = replace(override(Procedure(), options), device=str(device))
        pipeline = load_pipeline(target).to(device)
        tokens = _tokens_or_none(lambda: open_tokens(config, run, "train"))  # of a run that has been moved: none
        with output_folder(options.out, run.evaluation) as folder:
            result = run_evaluation(
                pipeline, config.data, protocol, settings, folder, run.evaluation_samples, procedure, tokens
            )
        say(result.markdown() + f"\n{folder}")
        say_skipped(describe_report(folder))


def _evaluate_images(target: Path, options: EvaluateOptions) -> None:
    from purrception.data import describe, describe_report
    from purrception.evaluation import EvaluationConfig, Procedure, evaluate_images
    from purrception.evaluation.run import save_reference
    from purrception.storage import output_folder
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    _refuse_settings_of_runs(options)
    if not options.reference and not options.save_stats:
        raise InputError(
            f"{target} is no run, so that it holds no real images of its own: give some with --reference (a "
            "folder or an .npz), or keep the statistics of these with --save-stats FILE.npz"
        )
    config = override(EvaluationConfig(), options)
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        procedure = replace(override(Procedure(), options), device=str(device))
        if not options.reference:
            file, skipped = save_reference(target, config, procedure)
            say(f"statistics: {file}")
            say_skipped(describe(skipped))
            return
        with output_folder(options.out, Path("evaluations")) as folder:
            result = evaluate_images(target, config, folder, procedure)
        say(result.markdown() + f"\n{folder}")
        say_skipped(describe_report(folder))


def _refuse_settings_of_runs(options: EvaluateOptions) -> None:
    """Options about sampling mean nothing where nothing is sampled."""
    plain = EvaluateOptions()
    about_runs = (
        "num",
        "guidances",
        "steps",
        "solver",
        "grid",
        "temperature",
        "guidance_interval",
        "labels",
        "truncate",
    )
    given = [name for name in (*about_runs, "save_images") if getattr(options, name) != getattr(plain, name)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"these images are already there; {named} say how a run makes some: leave them out")


def _tokens_or_none(read: Callable[[], TokenDataset | None]) -> TokenDataset | None:
    try:
        return read()
    except InputError:
        return None


def _diff(arguments: list[str]) -> None:
    """``purrception evaluate --diff A B``."""
    from purrception.evaluation.diff import compare_results

    words = [argument for argument in arguments if argument not in ("--diff", "--anyway")]
    if len(words) != 2 or any(word.startswith("-") for word in words):
        raise InputError("usage: purrception evaluate --diff A B [--anyway], where A and B are folders of reports")
    print(compare_results(Path(words[0]), Path(words[1]), anyway="--anyway" in arguments))
