"""``purrception edit VERB``. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from purrception.cli.parsing import Verb, override, parse, target_of
from purrception.cli.sampling_options import SamplingOptions
from purrception.utils.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from purrception.flow import SamplingConfig
    from purrception.generation.outputs import PurrceptionOutput
    from purrception.generation.pipeline import PurrceptionPipeline


@dataclass(frozen=True, kw_only=True)
class Common(SamplingOptions):
    """How to sample, on what, and where to. What is left out is the run's own setting."""

    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""
    out: str = ""
    """Folder for the images; default: RUN/edited/000, 001, …"""


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(Common):
    """What ``purrception edit inpaint`` takes."""

    image: str = ""
    """The picture, a file; its centre square is used."""
    mask: str = ""
    """A picture of the same size: bright where it may change."""
    class_label: str = ""
    """Class label or name of what is made; left out: whatever fits the rest."""
    num: int = 4
    """Variants."""
    strength: float = 1.0
    """Share of what is painted that is forgotten; below 1 its outlines remain."""
    margin: int = 0
    """Tokens around those touched that may change too, which hides seams."""
    keep_pixels: bool = False
    """Paste the pixels of the given picture outside the mask."""
    conditioning: str = "auto"
    """How given tokens act on the free ones: posterior, resampling or replacement; auto: the model's best."""
    seed: int = 0
    """Variant i depends on (seed, i) alone."""


@dataclass(frozen=True, kw_only=True)
class VaryOptions(Common):
    """What ``purrception edit vary`` takes."""

    image: str = ""
    """The picture, a file; its centre square is used."""
    class_label: str = ""
    """Class label or name of what is made; left out: whatever fits."""
    num: int = 4
    """Variants."""
    strength: float = 0.5
    """How far from the original: near 0 hardly, at 1 nothing of it is left."""
    seed: int = 0
    """Variant i depends on (seed, i) alone."""


@dataclass(frozen=True, kw_only=True)
class RefineOptions(Common):
    """What ``purrception edit refine`` takes: the images are sampled as by ``sample``, then refined."""

    num: int = 64
    """Number of images, where no classes are named; classes take turns."""
    classes: tuple[str, ...] = ()
    """Class labels or names, one image each."""
    threshold: float = 0.5
    """Tokens whose entropy is above this many nats are made anew; the others stay to the bit."""
    strength: float = 0.5
    """Made anew from t = 1 − strength; 1 forgets them altogether."""
    seed: int = 0
    """Of the images and of what is made anew."""


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(Common):
    """What ``purrception edit interpolate`` takes."""

    seeds: tuple[int, int] = (0, 1)
    """Between whose first images to go."""
    num: int = 8
    """Images, both ends included."""
    class_label: str = ""
    """Class label or name; left out: none in particular."""


O = TypeVar("O", bound=Common)  # noqa: E741 - the options of a verb


def inpaint(arguments: list[str]) -> None:
    """``purrception edit inpaint``: make what is painted anew."""

    def run(pipeline: PurrceptionPipeline, options: InpaintOptions, settings: SamplingConfig) -> PurrceptionOutput:
        return pipeline.inpaint(
            _picture("image", options.image, pipeline),
            _picture("mask", options.mask, pipeline),
            options.class_label or None,
            options.num,
            settings,
            options.seed,
            strength=options.strength,
            margin=options.margin,
            keep_pixels=options.keep_pixels,
            conditioning=options.conditioning,
        )

    _edit("inpaint", InpaintOptions, arguments, run)


def vary(arguments: list[str]) -> None:
    """``purrception edit vary``: noise an image, and come back."""

    def run(pipeline: PurrceptionPipeline, options: VaryOptions, settings: SamplingConfig) -> PurrceptionOutput:
        picture = _picture("image", options.image, pipeline)
        label = options.class_label or None
        return pipeline.vary(picture, options.strength, label, options.num, settings, options.seed)

    _edit("vary", VaryOptions, arguments, run)


def refine(arguments: list[str]) -> None:
    """``purrception edit refine``: sample, then make the uncertain tokens anew."""

    def run(pipeline: PurrceptionPipeline, options: RefineOptions, settings: SamplingConfig) -> PurrceptionOutput:
        labels = pipeline.resolve_labels(options.classes or None, None if options.classes else options.num)
        made = pipeline.sample(labels, settings, options.seed)
        refined = pipeline.refine(made, options.threshold, settings, options.seed, options.strength)
        changed = int((refined.indices != made.indices).sum())
        print(f"{changed} of {made.indices.numel()} tokens changed")
        return refined

    _edit("refine", RefineOptions, arguments, run)


def interpolate(arguments: list[str]) -> None:
    """``purrception edit interpolate``: from the image of one seed to that of another."""

    def run(
        pipeline: PurrceptionPipeline, options: InterpolateOptions, settings: SamplingConfig
    ) -> PurrceptionOutput:
        return pipeline.interpolate(options.seeds, options.num, options.class_label or None, settings)

    _edit("interpolate", InterpolateOptions, arguments, run)


def _edit(
    name: str,
    kind: type[O],
    arguments: list[str],
    run: Callable[[PurrceptionPipeline, O, SamplingConfig], PurrceptionOutput],
) -> None:
    """Parse, load, edit and save."""
    target, rest = target_of(EDIT_VERBS[name], arguments)
    options = parse(kind, EDIT_VERBS[name], rest)
    from purrception.experiment.saved_run import load_pipeline, sampling_defaults
    from purrception.generation.saving import edit_command, save_gallery
    from purrception.storage import output_folder
    from purrception.training import RunDirectory
    from purrception.utils.devices import resolve_device

    # A verb's own strength is that of the edit, and not the stochastic solver's.
    given = SimpleNamespace(**{field.name: getattr(options, field.name) for field in fields(SamplingOptions)})
    settings = override(sampling_defaults(target), given)
    pipeline = load_pipeline(target).to(resolve_device(options.device))
    named = {
        option: value for option, value in asdict(options).items() if value not in ("", ()) and option != "out"
    }
    command = edit_command(name, target, named, settings)
    with output_folder(options.out, RunDirectory(target).edited) as folder:
        out = run(pipeline, options, settings)
        save_gallery(pipeline, out, settings, getattr(options, "seed", 0), target, folder, command)
    print(f"{len(out.images)} images, {out.nfe} network evaluations each: {folder}")


def _picture(what: str, path: str, pipeline: PurrceptionPipeline) -> Image.Image:
    from purrception.generation.image_processor import read_picture

    if not path:
        raise InputError(f"give the {what}, a picture, with --{what} FILE")
    return read_picture(path, pipeline.canvas.channels)


EDIT_VERBS = {
    "inpaint": Verb(
        inpaint,
        "edit inpaint RUN --image FILE --mask FILE [--key value …]",
        "Make the tokens that a mask touches anew; the others stay to the bit.",
        "purrception edit inpaint runs/digits --image seven.png --mask painted.png --class-label 7",
    ),
    "vary": Verb(
        vary,
        "edit vary RUN --image FILE [--key value …]",
        "Variations of a picture: noised part of the way, and sampled from there.",
        "purrception edit vary runs/digits --image seven.png --strength 0.6 --class-label 7",
    ),
    "refine": Verb(
        refine,
        "edit refine RUN [--key value …]",
        "Sample, then make anew the tokens that the model was unsure of; the others stay to the bit.",
        "purrception edit refine runs/digits --num 100 --threshold 0.5",
    ),
    "interpolate": Verb(
        interpolate,
        "edit interpolate RUN --seeds A B [--key value …]",
        "Images from noise on the way between that of two seeds.",
        "purrception edit interpolate runs/digits --seeds 0 1 --class-label 3",
    ),
}
