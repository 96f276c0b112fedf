"""The command line: parsing, and one call per verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purrception.cli.bench import bench, plan
from purrception.cli.convert import convert
from purrception.cli.diagnose import diagnose
from purrception.cli.edit import EDIT_VERBS
from purrception.cli.evaluate import evaluate
from purrception.cli.export import EXPORT
from purrception.cli.parsing import Verb, configure, override, parse, parse_known, run_verb, say, target_of
from purrception.cli.prepare import prepare
from purrception.cli.sampling_options import SamplingOptions
from purrception.cli.studio import STUDIO
from purrception.cli.tokenizer import TOKENIZER_VERBS
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import explained, is_foreign
from purrception.utils.settings import TIMEOUT_MINUTES
from purrception.utils.text import command_line, make_output_encodable

SUMMARY = "Image generation in vector-quantised latent spaces with variational flow matching."


@dataclass(frozen=True, kw_only=True)
class SampleOptions(SamplingOptions):
    """What ``purrception sample`` takes. What is left out is the run's own setting."""

    num: int = 64
    """Number of images, where no classes are named; classes take turns."""
    classes: tuple[str, ...] = ()
    """Class labels or names, one image each."""
    preset: str = ""
    """Settings that ``purrception sweep`` found, a YAML file; options given beside it win."""
    guidance_space: Literal["logits", "mean"] | None = None
    """Where guidance acts; in the logits it needs one head pass, in the mean two."""
    strength: float | None = None
    """Share of noise drawn anew by solver stochastic; for dfm, the weight of its corrector."""
    tolerance: float | None = None
    """Of a step of solver dopri5, relative and absolute."""
    redraw: bool | None = None
    """dfm, as the paper's code samples it: known sites are drawn anew as often as masked ones are drawn."""
    seed: int = 0
    """Image i depends on (seed, i) alone."""
    batch_size: int = 64
    """Images at a time; does not change them."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone and, on a GPU, the head's products; posterior and flow are float32 in any case."""
    compile: bool = False
    """Compile the blocks of the backbone (torch.compile): pays for many images on a GPU."""
    record: bool = False
    """Record the steps of a batch and replay them for the others (a CUDA graph): pays for many batches of a small
    network on a GPU."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""
    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how long processes wait for one that shows no progress."""
    out: str = ""
    """Folder for the images; default: RUN/generated/000, 001, …"""


@dataclass(frozen=True)
class CompareOptions:
    """What ``purrception compare`` takes besides the recipe's own options."""

    objectives: str = "purrception,cfm,cfm-endpoint,dfm"
    """What is compared, separated by commas: an objective, and changes behind plus signs, such as
    purrception+evidence or purrception+geometric+no-z-loss."""
    seeds: int = 3
    """Trainings of each, with seeds that follow the recipe's."""
    points: int = 7
    """Measurements of each training, at steps √2 apart, the last at the end."""
    num: int = 500
    """Images generated per measurement."""
    tune: bool = False
    """Also give each objective its own best of a small grid of sampling settings, at the end."""
    out: str = ""
    """Folder; default: comparisons/NAME. The same command goes on with an interrupted comparison, and with more
    objectives or seeds adds them to it."""


@dataclass(frozen=True)
class SweepOptions:
    """What ``purrception sweep`` takes: every combination is sampled from the same noise."""

    temperatures: tuple[str, ...] = ()
    """τ, numbers or schedules; default: 1.0 0.9 0.8 0.7, where there is a posterior."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Strengths of the class."""
    steps: tuple[int, ...] = (4, 8, 16, 64)
    """Intervals of the time grid."""
    solvers: tuple[str, ...] = ()
    """Solvers; default: euler and dpmpp_2m, as far as the objective has them."""
    grids: tuple[str, ...] = ("uniform",)
    """Time grids."""
    num: int = 500
    """Images per combination."""
    seed: int = 0
    """Of the noise."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""
    out: str = ""
    """Folder for the report; default: RUN/sweeps/000, 001, …"""


def train(arguments: list[str]) -> None:
    """``purrception train``: everything a recipe needs."""
    verb = VERBS["train"]
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    resume = arguments[:1] == ["--resume"]
    if not resume:
        target, rest = target_of(verb, arguments)
    elif len(arguments) > 1 and not dry:
        target, rest = arguments[1], arguments[2:]
    else:
        raise InputError("--resume needs the directory of a run: purrception train --resume runs/digits")
    from purrception.experiment.config import RunConfig
    from purrception.experiment.dry_run import dry_run
    from purrception.experiment.run import resume_run, start_run
    from purrception.experiment.saved_run import saved_config
    from purrception.storage import dump_settings
    from purrception.training import RunDirectory

    if resume:
        config = parse(RunConfig, verb, rest, saved_config(RunDirectory.open(target)))
    else:
        config = configure(verb, target, rest, dry=dry)
    say(dump_settings(config))
    if dry:
        print(dry_run(config))
        return
    run = resume_run(target, config) if resume else start_run(config)
    say(f"done: {run.root}  (next: {command_line(['sample', str(run.root)])})")


def sample(arguments: list[str]) -> None:
    """``purrception sample``: images from a run or a pipeline."""
    verb = VERBS["sample"]
    target, rest = target_of(verb, arguments)
    options = parse(SampleOptions, verb, rest)
    from purrception.experiment.run import load_pipeline, sampling_defaults
    from purrception.flow import SamplingConfig
    from purrception.generation.saving import save_gallery
    from purrception.storage import load_settings, output_folder
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    defaults = load_settings(SamplingConfig, options.preset) if options.preset else sampling_defaults(target)
    settings = override(defaults, options)
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        pipeline = load_pipeline(target).to(device)
        pipeline.transformer.half_backbone = options.precision == "bfloat16"
        if options.compile:
            pipeline.transformer.compile_parts()
        labels = pipeline.resolve_labels(options.classes or None, None if options.classes else options.num)
        with output_folder(options.out, Path(target) / "generated") as folder:
            out = pipeline.sample(labels, settings, options.seed, options.batch_size, record=options.record)
            if distributed.rank() > 0:
                return
            save_gallery(pipeline, out, settings, options.seed, target, folder)
        print(f"{len(out.images)} images, {out.nfe} network evaluations each: {folder}")


def compare(arguments: list[str]) -> None:
    """``purrception compare``: the same training for each objective."""
    verb = VERBS["compare"]
    target, rest = target_of(verb, arguments)
    from purrception.comparison.entries import parse_entries
    from purrception.comparison.run import Protocol
    from purrception.comparison.run import compare as run_comparison

    options, rest = parse_known(CompareOptions, verb, rest)
    recipe = configure(verb, target, rest)
    entries = tuple(parse_entries(options.objectives))
    protocol = Protocol(entries, options.seeds, options.points, options.num, options.tune)
    folder = Path(options.out or f"comparisons/{recipe.name}")
    print(f"report: {run_comparison(recipe, protocol, folder)}")


def sweep(arguments: list[str]) -> None:
    """``purrception sweep``: one run under many sampling settings."""
    verb = VERBS["sweep"]
    target, rest = target_of(verb, arguments)
    options = parse(SweepOptions, verb, rest)
    from purrception.comparison.sweep import SweepSpace
    from purrception.comparison.sweep import sweep as run_sweep
    from purrception.storage import output_folder

    space = SweepSpace(options.temperatures, options.guidances, options.steps, options.solvers, options.grids)
    with output_folder(options.out, Path(target) / "sweeps") as folder:
        report = run_sweep(target, space, options.num, options.seed, folder, options.device)
    print(f"report: {report}")


def tokenizer(arguments: list[str]) -> None:
    """``purrception tokenizer VERB``: train, convert or judge a tokenizer."""
    run_verb(arguments, TOKENIZER_VERBS, "tokenizer ", "Tokenizers: images to codes and back.")


def edit(arguments: list[str]) -> None:
    """``purrception edit VERB``: inpaint, vary, refine or interpolate."""
    run_verb(arguments, EDIT_VERBS, "edit ", "Editing: some tokens are given, the others are made under them.")


VERBS = {
    "train": Verb(
        train,
        "train RECIPE_OR_YAML [--dry-run] [--key value …]  |  train --resume RUN",
        "Everything a recipe needs: tokenizer, token shards, training, sample grids, a pipeline in the end. "
        "--dry-run stops after the first step, on images of noise. Recipes: digits, photos, folder, "
        "imagenet256-b, -l, -xl, paper-code (also -l, -b: as the paper's public code has it), and ffhq, lsun, "
        "coco, also with 128 behind them.",
        "purrception train digits --training.steps 600 --name quick",
    ),
    "prepare": Verb(
        prepare,
        "prepare SOURCE --tokenizer DIR --out DIR [--key value …]",
        "Images into token shards: a folder, tars ('in/train-{000..146}.tar'), hub:NAME, digits or photos. "
        "Broken images are skipped and listed; a killed run goes on; torchrun shares the work.",
        "purrception prepare pictures --tokenizer tokenizers/vq-f8 --out tokens --image-size 256",
    ),
    "sample": Verb(
        sample,
        "sample RUN_OR_PIPELINE [--key value …]",
        "Images from a run: PNGs, a grid, entropy maps, a manifest that reproduces them.",
        "purrception sample runs/digits --classes 3 3 7 --guidance 1.5 --seed 1",
    ),
    "edit": Verb(
        edit,
        "edit VERB …",
        "Paint over part of an image and have it made anew, vary it, refine what was uncertain, or interpolate.",
        "purrception edit inpaint runs/digits --image seven.png --mask painted.png --class-label 7",
    ),
    "evaluate": Verb(
        evaluate,
        "evaluate RUN_OR_IMAGES [--reference R] [--key value …]  |  evaluate --diff A B [--anyway]",
        "How good images are, a run's or a folder's: distances to real ones beside their floors, with intervals, "
        "class by class, and the manifest that another person needs. --diff says in what two results differ.",
        "purrception evaluate runs/digits --num 500 --guidances 1.0 1.5",
    ),
    "compare": Verb(
        compare,
        "compare RECIPE_OR_YAML [--key value …]",
        "The same training for each objective, measured as it goes; one report with curves and speed ratios. "
        "Options of the recipe can be given too.",
        "purrception compare digits --objectives purrception,cfm --seeds 3 --training.steps 600",
    ),
    "sweep": Verb(
        sweep,
        "sweep RUN [--key value …]",
        "One run under many sampling settings: a table, a Pareto front, presets for sample.",
        "purrception sweep runs/digits --solvers euler dpmpp_2m --steps 8 16 64 --num 500",
    ),
    "diagnose": Verb(
        diagnose,
        "diagnose RUN [--only PART,…] [--key value …]  |  diagnose --suite [--key value …]",
        "What a run does not know: uncertainty, calibration, codebook, drift, the exact posterior, smoothness, an "
        "error bound, temperature; one report. --suite compares the objectives on several sets of images.",
        "purrception diagnose runs/digits --only calibration,oracle",
    ),
    "bench": Verb(
        bench,
        "bench [--key value …]",
        "Speed and memory of a training step, a sampling step and the head, beside a straightforward reference.",
        "purrception bench --network S/2 --parts training head --json",
    ),
    "plan": Verb(
        plan,
        "plan RECIPE_OR_YAML [--gpus N] [--gpu NAME] [--tflops X] [--key value …]",
        "What a run will cost before it is started: parameters, FLOPs, memory, disk, time. On this machine a few "
        "steps are taken, or a matrix product is timed; another one's GPUs are counted and named.",
        "purrception plan imagenet256-xl --gpus 8 --gpu H100",
    ),
    "tokenizer": Verb(
        tokenizer,
        "tokenizer VERB …",
        "Train a tokenizer by itself, convert a public checkpoint, or judge one on your images.",
        "purrception tokenizer convert vq-f8.ckpt --arch vq-f8 --out tokenizers/vq-f8",
    ),
    "studio": STUDIO,
    "export": EXPORT,
    "convert": Verb(
        convert,
        "convert CHECKPOINT --tokenizer DIR [--key value …]",
        "A checkpoint of the paper's public implementation into a pipeline that sample takes.",
        "purrception convert imagenet_dit_last.pth --tokenizer tokenizers/vq-f8 --out pipelines/public",
    ),
}


GO_ON = {
    "train": "; it goes on with: purrception train --resume RUN",
    "tokenizer train": "; it goes on with: purrception tokenizer train --resume DIR",
    "prepare": "; the same command goes on",
    "compare": "; the same command goes on",
}
"""What to do after Ctrl-C, where something is kept."""


def complain(error: Exception) -> int:
    """Say in one line what a person can mend; returns the exit status of that."""
    print(f"purrception: {in_words(error)}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 2 for what a person can mend, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    make_output_encodable()
    try:
        if arguments and arguments[0] == "--version":
            from purrception import __version__

            print(f"purrception {__version__}")
        else:
            run_verb(arguments, VERBS, "", SUMMARY)
        sys.stdout.flush()  # to a full disk it fails here, and not when nobody can tell of it
    except (InputError, OSError) as error:
        return complain(error)
    except ImportError as error:
        if not is_foreign(error):
            raise
        return complain(explained(error, " ".join(["purrception", *arguments[:1]])))
    except KeyboardInterrupt:
        hint = GO_ON.get(" ".join(arguments[:2])) or GO_ON.get(" ".join(arguments[:1]), "")
        print(f"purrception: interrupted{hint}", file=sys.stderr)
        return 130
    except Exception as error:  # of a library that met a full disk, and has a kind of error of its own for it
        from purrception.storage import disk_error

        if not (reason := disk_error(error)):
            raise
        return complain(InputError(f"the disk does not take what is written ({reason}): make room, and try again"))
    return 0
