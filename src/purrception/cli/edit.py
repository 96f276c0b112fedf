"""``purrception edit inpaint``, ``vary``, ``refine``, ``interpolate``. What is heavy is imported when needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from purrception.cli.parsing import flat, parse, target_of
from purrception.cli.sample import in_turn
from purrception.cli.verbs import Verb
from purrception.flow.settings import SamplingConfig
from purrception.training import RunDirectory, check_target
from purrception.utils.errors import InputError
from purrception.utils.settings import DeviceOptions, as_options

if TYPE_CHECKING:
    from PIL import Image

    from purrception.generation.outputs import PurrceptionOutput
    from purrception.generation.pipeline import PurrceptionPipeline


@dataclass(frozen=True, kw_only=True)
class EditOptions(DeviceOptions):
    """What all edits take; of the sampling, what is left out is the run's own setting."""

    sampling: SamplingConfig = field(metadata=flat(own="the run's own"))
    out: str = ""
    """Folder for the images. Default: RUN/edited/000, 001, …"""


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(EditOptions):
    """What ``purrception edit inpaint`` takes."""

    image: str = ""
    """File of the picture; its centre square is used. Required."""
    mask: str = ""
    """File of a picture of the same size, bright where the image may change. Required."""
    class_label: str = ""
    """Class label or name of what is filled in. Default: what fits the rest."""
    num: int = 4
    """Number of variants."""
    strength: float = 1.0
    """How much of what is painted is forgotten; below 1 its outlines remain."""
    margin: int = 0
    """Number of tokens around the painted ones that may change too, which hides seams."""
    keep_pixels: bool = False
    """Outside the mask, paste the pixels of the given picture."""
    conditioning: str = "auto"
    """How given tokens act on the free ones: posterior, resampling or replacement; auto: the best that the model
    has."""
    seed: int = 0
    """Seed of the noise: variant i depends on (seed, i) alone."""


@dataclass(frozen=True, kw_only=True)
class VaryOptions(EditOptions):
    """What ``purrception edit vary`` takes."""

    image: str = ""
    """File of the picture; its centre square is used. Required."""
    class_label: str = ""
    """Class label or name of the variations. Default: what fits the picture."""
    num: int = 4
    """Number of variants."""
    strength: float = 0.5
    """How far to go from the original: hardly at all near 0; at 1 nothing of it is left."""
    seed: int = 0
    """Seed of the noise: variant i depends on (seed, i) alone."""


@dataclass(frozen=True, kw_only=True)
class RefineOptions(EditOptions):
    """What ``purrception edit refine`` takes: the images are sampled as by ``sample``, then refined."""

    num: int | None = None
    """Number of images; the classes take turns. Default: one of each class that is named, or else 64."""
    classes: tuple[str, ...] = ()
    """Class labels or names. Default: all classes."""
    threshold: float = 0.5
    """Entropy at the last evaluation, in nats, above which a token is sampled again; the others stay exactly as
    they are."""
    strength: float = 0.5
    """Tokens are sampled again from t = 1 − strength; 1 forgets them altogether."""
    seed: int = 0
    """Seed of the images, and of what is sampled again."""


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(EditOptions):
    """What ``purrception edit interpolate`` takes."""

    OPTIONS: ClassVar[dict[str, str]] = {"seeds": "between"}
    """What a field is called on the command line, where it is not its own name."""

    seeds: tuple[int, int] = (0, 1)
    """The two seeds between whose first images to go."""
    num: int = 8
    """Number of images, both ends included."""
    class_label: str = ""
    """Class label or name. Default: no class in particular."""


O = TypeVar("O", bound=EditOptions)  # noqa: E741 - the options of an edit


def inpaint(verb: Verb, arguments: list[str]) -> None:
    """Sample the painted tokens again."""

    def run(pipeline: PurrceptionPipeline, options: InpaintOptions) -> PurrceptionOutput:
        return pipeline.inpaint(
            _picture("image", options.image, pipeline),
            _picture("mask", options.mask, pipeline),
            options.class_label or None,
            options.num,
            options.sampling,
            options.seed,
            strength=options.strength,
            margin=options.margin,
            keep_pixels=options.keep_pixels,
            conditioning=options.conditioning,
        )

    _edit(verb, InpaintOptions, arguments, run)


def vary(verb: Verb, arguments: list[str]) -> None:
    """Make variations of a picture."""

    def run(pipeline: PurrceptionPipeline, options: VaryOptions) -> PurrceptionOutput:
        picture = _picture("image", options.image, pipeline)
        label = options.class_label or None
        return pipeline.vary(picture, options.strength, label, options.num, options.sampling, options.seed)

    _edit(verb, VaryOptions, arguments, run)


def refine(verb: Verb, arguments: list[str]) -> None:
    """Sample, then sample the most uncertain tokens again."""

    def run(pipeline: PurrceptionPipeline, options: RefineOptions) -> PurrceptionOutput:
        labels = pipeline.resolve_labels(*in_turn(options.classes, options.num))
        made = pipeline.sample(labels, options.sampling, options.seed)
        refined = pipeline.refine(made, options.threshold, options.sampling, options.seed, options.strength)
        changed = int((refined.indices != made.indices).sum())
        print(f"{changed} of {made.indices.numel()} tokens changed")
        return refined

    _edit(verb, RefineOptions, arguments, run)


def interpolate(verb: Verb, arguments: list[str]) -> None:
    """Go from the image of one seed to that of another."""

    def run(pipeline: PurrceptionPipeline, options: InterpolateOptions) -> PurrceptionOutput:
        return pipeline.interpolate(options.seeds, options.num, options.class_label or None, options.sampling)

    _edit(verb, InterpolateOptions, arguments, run)


def _edit(
    verb: Verb, kind: type[O], arguments: list[str], run: Callable[[PurrceptionPipeline, O], PurrceptionOutput]
) -> None:
    """Parse, load, edit and save."""
    target, rest = target_of(verb, arguments)
    options = parse(kind, verb, rest)
    check_target(target)
    from purrception.experiment.saved_run import load_pipeline, sampling_defaults
    from purrception.generation.saving import edit_command, save_outputs
    from purrception.storage import output_folder
    from purrception.utils.devices import resolve_device

    defaults = kind(sampling=sampling_defaults(target))
    options = parse(kind, verb, rest, replace(options, sampling=defaults.sampling))
    pipeline = load_pipeline(target).to(resolve_device(options.device))
    given = as_options(replace(options, out="", sampling=defaults.sampling), defaults)
    command = edit_command(verb.name.split()[-1], target, given, options.sampling, defaults.sampling)
    with output_folder(options.out, RunDirectory(target).edited) as folder:
        out = run(pipeline, options)
        save_outputs(pipeline, out, options.sampling, getattr(options, "seed", 0), target, folder, command)
    print(f"{len(out.images)} images, {out.nfe} network evaluations each: {folder}")


def _picture(what: str, path: str, pipeline: PurrceptionPipeline) -> Image.Image:
    from purrception.generation.image_processor import read_picture

    if not path:
        raise InputError(f"give the {what}, a picture, with --{what} FILE")
    return read_picture(path, pipeline.image_processor.channels)
