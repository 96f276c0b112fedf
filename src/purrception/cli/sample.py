"""``purrception sample``. What is heavy is imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Literal

from purrception.cli.parsing import flat, parse, target_of
from purrception.cli.verbs import Verb
from purrception.flow.settings import SamplingConfig
from purrception.training import RunDirectory, check_target
from purrception.utils.errors import InputError
from purrception.utils.settings import ProcessOptions

DEFAULT_NUM = 64


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ProcessOptions):
    """What ``purrception sample`` takes; of the sampling, what is left out is the run's own setting."""

    sampling: SamplingConfig = field(metadata=flat(own="the run's own"))
    num: int | None = None
    """Number of images; the classes take turns. Default: one of each class that is named, or else 64."""
    classes: tuple[str, ...] = ()
    """Class labels or names. Default: all classes."""
    preset: str = ""
    """YAML file of settings that purrception sweep found; options given beside it take precedence."""
    seed: int = 0
    """Seed of the noise: image i depends on (seed, i) alone."""
    batch_size: int = 64
    """Images at a time; it does not change them."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the backbone and, on a GPU, of the head's products; posterior and flow are always float32."""
    compile: bool = False
    """Compile the blocks of the backbone with torch.compile, which pays for many images on a GPU."""
    record: bool = False
    """Record the steps of a batch as a CUDA graph and replay it for the others, which pays for many batches of a
    small network on a GPU."""
    out: str = ""
    """Folder for the images. Default: RUN/generated/000, 001, …"""


def sample(verb: Verb, arguments: list[str]) -> None:
    """Generate images from a run or a pipeline."""
    target, rest = target_of(verb, arguments)
    options = parse(SampleOptions, verb, rest)
    classes, num = in_turn(options.classes, options.num)
    check_target(target)
    from purrception.experiment.saved_run import load_pipeline, sampling_defaults
    from purrception.generation.saving import sample_command, save_outputs
    from purrception.storage import load_settings, output_folder
    from purrception.utils import distributed
    from purrception.utils.devices import resolve_device

    own = sampling_defaults(target)
    preset = load_settings(SamplingConfig, options.preset) if options.preset else own
    options = parse(SampleOptions, verb, rest, replace(options, sampling=preset))
    with distributed.joined(resolve_device(options.device), options.timeout_minutes) as device:
        pipeline = load_pipeline(target).to(device)
        pipeline.transformer.half_backbone = options.precision == "bfloat16"
        if options.compile:
            pipeline.transformer.compile_parts()
        labels = pipeline.resolve_labels(classes, num)
        with output_folder(options.out, RunDirectory(target).generated) as folder:
            out = pipeline.sample(
                labels, options.sampling, options.seed, options.batch_size, record=options.record
            )
            if distributed.rank() > 0:
                return
            command = sample_command(pipeline, target, out.labels, options.sampling, options.seed, own)
            save_outputs(pipeline, out, options.sampling, options.seed, target, folder, command)
        print(f"{len(out.images)} images, {out.nfe} network evaluations each: {folder}")


def in_turn(classes: Sequence[str], num: int | None) -> tuple[list[str] | None, int | None]:
    """The classes and the number of images to ask a pipeline for; classes that are named take turns.

    Raises:
        InputError: fewer images than classes, or none.
    """
    if num is not None and num < max(1, len(classes)):
        raise InputError(
            f"--num is at least {len(classes)}, one image of each of the classes that are named; given {num}"
            if classes
            else f"--num asks for at least one image; given {num}"
        )
    if not classes:
        return None, DEFAULT_NUM if num is None else num
    return list(islice(cycle(classes), num or len(classes))), None
