"""All commands: how each is used, what it is for, and an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Verb:
    """One command."""

    name: str
    """The words that call it, such as ``tokenizer train``."""
    usage: str
    """What follows the name."""
    summary: str
    """What it does, in a sentence or two."""
    example: str
    """A command that a person may paste; with ``purrception`` in front."""

    def run(self, arguments: list[str]) -> None:
        """Import the module named after the first word, and call its function named after the last."""
        words = self.name.split()
        function: Callable[[Verb, list[str]], None] = getattr(
            import_module(f"purrception.cli.{words[0]}"), words[-1]
        )
        function(self, arguments)


GROUPS = {
    "tokenizer": "Train a tokenizer by itself, convert a public checkpoint, or judge one on your images.",
    "edit": "Paint over part of an image and fill it in, vary it, refine what was uncertain, or interpolate.",
}
"""Commands that have commands of their own, and what they are for."""

_ALL = (
    Verb(
        "train",
        "RECIPE_OR_YAML [--dry-run] [--key value …]  |  train --resume RUN",
        "Do everything a recipe needs: tokenizer, token shards, training, sample grids, and a pipeline in the "
        "end. --dry-run stops after the first step, on images of noise. Recipes: digits, photos, folder, "
        "imagenet256-b, -l, -xl, paper-code (also -l, -b: as the paper's public code has it), and ffhq, lsun, "
        "coco, also with 128 behind them.",
        "purrception train digits --training.steps 600 --name quick",
    ),
    Verb(
        "prepare",
        "SOURCE --tokenizer DIR --out DIR [--key value …]",
        "Encode images as token shards: a folder, tars ('in/train-{000..146}.tar'), hub:NAME, digits or photos. "
        "Broken images are skipped and listed; a killed run goes on; torchrun shares the work.",
        "purrception prepare pictures --tokenizer tokenizers/vq-f8 --out tokens --image-size 256",
    ),
    Verb(
        "sample",
        "RUN_OR_PIPELINE [--key value …]",
        "Generate images from a run: PNGs, a grid, entropy maps, and a manifest that reproduces them.",
        "purrception sample runs/digits --classes 3 3 7 --guidance 1.5 --seed 1",
    ),
    Verb(
        "edit inpaint",
        "RUN --image FILE --mask FILE [--key value …]",
        "Sample the tokens that a mask touches again; the others stay exactly as they are.",
        "purrception edit inpaint runs/digits --image seven.png --mask painted.png --class-label 7",
    ),
    Verb(
        "edit vary",
        "RUN --image FILE [--key value …]",
        "Make variations of a picture: it is noised part of the way, and sampled from there.",
        "purrception edit vary runs/digits --image seven.png --strength 0.6 --class-label 7",
    ),
    Verb(
        "edit refine",
        "RUN [--key value …]",
        "Sample, then sample the most uncertain tokens again; the others stay exactly as they are.",
        "purrception edit refine runs/digits --num 100 --threshold 0.5",
    ),
    Verb(
        "edit interpolate",
        "RUN [--key value …]",
        "Go from the image of one seed to that of another, along the great circle between their noise.",
        "purrception edit interpolate runs/digits --seeds 0 7 --class-label 3",
    ),
    Verb(
        "evaluate",
        "RUN_OR_IMAGES [--reference R] [--key value …]  |  evaluate --diff A B [--anyway]",
        "Measure how good the images of a run or a folder are: distances to real ones beside their floors, with "
        "intervals, class by class, and the manifest that another person needs. --diff compares two results.",
        "purrception evaluate runs/digits --num 500 --guidances 1.0 1.5",
    ),
    Verb(
        "compare",
        "RECIPE_OR_YAML [--key value …]",
        "Train each objective in the same way and measure it on the way; one report with curves and speed "
        "ratios. Options of the recipe can be given too.",
        "purrception compare digits --objectives purrception,cfm --seeds 3 --training.steps 600",
    ),
    Verb(
        "sweep",
        "RUN [--key value …]",
        "Measure one run under many sampling settings: a table, a Pareto front, and presets for sample.",
        "purrception sweep runs/digits --solvers euler dpmpp_2m --steps 8 16 64 --num 500",
    ),
    Verb(
        "diagnose",
        "RUN [--only PART,…] [--key value …]  |  diagnose --suite [--key value …]",
        "Examine what a run has learned: uncertainty, calibration, codebook, drift, the exact posterior, "
        "smoothness, an error bound, temperature; one report. --suite compares the objectives on several sets "
        "of images.",
        "purrception diagnose runs/digits --only calibration,oracle",
    ),
    Verb(
        "bench",
        "[--key value …]",
        "Measure speed and memory of a training step, a sampling step and the head, beside a straightforward "
        "reference.",
        "purrception bench --network S/2 --parts training head --json",
    ),
    Verb(
        "plan",
        "RECIPE_OR_YAML [--gpus N] [--gpu NAME] [--tflops X] [--key value …]",
        "Estimate what a run will cost before it is started: parameters, FLOPs, memory, disk, time. On this "
        "machine a few steps are taken, or a matrix product is timed; another one's GPUs are counted and named.",
        "purrception plan imagenet256-xl --gpus 8 --gpu H100",
    ),
    Verb(
        "tokenizer convert",
        "FILE --arch ARCH [--out DIR]",
        "Convert a public checkpoint (LDM's vq-f4, vq-f8, vq-f8-n256, vq-f16; taming's "
        "vqgan-imagenet-f16-1024, vqgan-imagenet-f16-16384; LlamaGen's vq-ds8-c2i, vq-ds16-c2i, "
        "vq-ds16-t2i), or a tokenizer of the hub, into a folder that --tokenizer.path takes.",
        "purrception tokenizer convert vq-f8.ckpt --arch vq-f8 --out tokenizers/vq-f8",
    ),
    Verb(
        "tokenizer train",
        "RECIPE_OR_FOLDER [--key value …] [--out DIR]  |  tokenizer train --resume DIR",
        "Train a tokenizer by itself, in one process or under torchrun; or only the decoder of an existing one.",
        "purrception tokenizer train photos --training.quantiser cosine --out tokenizers/photos",
    ),
    Verb(
        "tokenizer report",
        "TOKENIZER RECIPE_OR_FOLDER [--key value …]",
        "Judge whether a tokenizer is good enough for these images: use it, fine-tune its decoder, or retrain.",
        "purrception tokenizer report tokenizers/photos photos --out reports/photos",
    ),
    Verb(
        "studio",
        "RUN_OR_PIPELINE [--key value …]",
        "Open a page in the browser, on this machine alone: generate, look inside, edit, compare, read reports.",
        "purrception studio runs/digits",
    ),
    Verb(
        "export",
        "RUN [--key value …]",
        "Write one folder to share: averaged weights, the tokenizer, and a model card filled in from the run.",
        "purrception export runs/digits --out pipelines/digits --licence apache-2.0",
    ),
    Verb(
        "convert",
        "CHECKPOINT --tokenizer DIR [--key value …]",
        "Convert a checkpoint of the paper's public implementation into a pipeline that sample takes.",
        "purrception convert imagenet_dit_last.pth --tokenizer tokenizers/vq-f8 --out pipelines/public",
    ),
)
VERBS = {verb.name: verb for verb in _ALL}
"""Every command, by name."""
