"""All commands: how each is used, what it is for, and an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType


@dataclass(frozen=True)
class Verb:
    """One command."""

    name: str
    """The words that call it, such as ``tokenizer train``."""
    usage: str
    """What must follow the name: its targets, in capitals."""
    summary: str
    """What it does, in a sentence or two."""
    example: str
    """A command that a person may paste; with ``purrception`` in front."""

    @property
    def module(self) -> ModuleType:
        """The module that is named after the first word; it is imported only now."""
        return import_module(f"purrception.cli.{self.name.split()[0]}")

    @property
    def options(self) -> type:
        """The dataclass of its options: ``TrainOptions`` in the module of ``train``."""
        kind: type = getattr(self.module, f"{self.name.split()[-1].capitalize()}Options")
        return kind

    def run(self, arguments: list[str]) -> None:
        """Call the function that is named after the last word."""
        function: Callable[[Verb, list[str]], None] = getattr(self.module, self.name.split()[-1])
        function(self, arguments)


GROUPS = {
    "tokenizer": "Train a tokenizer by itself, convert a public checkpoint, or judge one on your images.",
    "edit": "Paint over part of an image and fill it in, vary it, refine what was uncertain, or interpolate.",
}
"""Commands that have commands of their own, and what they are for."""

_ALL = (
    Verb(
        "train",
        "RECIPE_OR_YAML",
        "Do everything a recipe needs: tokenizer, token shards, training, sample grids, and a pipeline in the "
        "end. Recipes: digits, photos, fashion, emoji, folder, imagenet256-b, -l, -xl, paper-code (also -l, -b: "
        "as the paper's public code has it), and ffhq, lsun, coco, also with 128 behind them. Instead of one, "
        "--resume RUN goes on with a run.",
        "purrception train digits --training.steps 600 --name quick",
    ),
    Verb(
        "prepare",
        "SOURCE",
        "Encode images as token shards: a folder, tars ('in/train-{000..146}.tar'), hub:NAME, or the images of a "
        "recipe such as fashion. Broken images are skipped and listed; a killed run goes on; torchrun shares the "
        "work.",
        "purrception prepare pictures --tokenizer tokenizers/vq-f8 --out tokens --image-size 256",
    ),
    Verb(
        "sample",
        "RUN_OR_PIPELINE",
        "Generate images from a run: PNGs, a grid, entropy maps, and a manifest that reproduces them.",
        "purrception sample runs/digits --classes 3 3 7 --guidance 1.5 --seed 1",
    ),
    Verb(
        "edit inpaint",
        "RUN_OR_PIPELINE",
        "Sample the tokens that a mask touches again; the others stay exactly as they are.",
        "purrception edit inpaint runs/digits --image seven.png --mask painted.png --class-label 7",
    ),
    Verb(
        "edit vary",
        "RUN_OR_PIPELINE",
        "Make variations of a picture: it is noised part of the way, and sampled from there.",
        "purrception edit vary runs/digits --image seven.png --strength 0.6 --class-label 7",
    ),
    Verb(
        "edit refine",
        "RUN_OR_PIPELINE",
        "Sample, then sample the most uncertain tokens again; the others stay exactly as they are.",
        "purrception edit refine runs/digits --num 100 --threshold 0.5",
    ),
    Verb(
        "edit interpolate",
        "RUN_OR_PIPELINE",
        "Go from the image of one seed to that of another, along the great circle between their noise.",
        "purrception edit interpolate runs/digits --between 0 7 --class-label 3",
    ),
    Verb(
        "evaluate",
        "RUN_OR_IMAGES",
        "Measure how good the images of a run or a folder are: distances to real ones beside their floors, with "
        "intervals, class by class, and the manifest that another person needs. Instead of a run, --diff A B "
        "compares two results.",
        "purrception evaluate runs/digits --num 500 --guidances 1.0 1.5",
    ),
    Verb(
        "compare",
        "RECIPE_OR_YAML",
        "Train each objective in the same way and measure it on the way; one report with curves and speed ratios.",
        "purrception compare digits --objectives purrception cfm --seeds 3 --training.steps 600",
    ),
    Verb(
        "sweep",
        "RUN",
        "Measure one run under many sampling settings: a table, a Pareto front, and presets for sample.",
        "purrception sweep runs/digits --solvers euler dpmpp_2m --steps 8 16 64 --num 500",
    ),
    Verb(
        "diagnose",
        "RUN",
        "Examine what a run has learned: uncertainty, calibration, codebook, drift, the exact posterior, "
        "smoothness, an error bound, temperature; one report. Instead of a run, --suite compares the objectives "
        "on several sets of images; purrception diagnose --suite --help lists its options.",
        "purrception diagnose runs/digits --only calibration oracle",
    ),
    Verb(
        "bench",
        "",
        "Measure speed and memory of a training step, a sampling step and the head, beside a straightforward "
        "reference.",
        "purrception bench --network S/2 --parts training head --json",
    ),
    Verb(
        "plan",
        "RECIPE_OR_YAML",
        "Estimate what a run will cost before it is started: parameters, FLOPs, memory, disk, time. On this "
        "machine a few steps are taken, or a matrix product is timed; another one's GPUs are counted and named.",
        "purrception plan imagenet256-xl --gpus 8 --gpu H100",
    ),
    Verb(
        "tokenizer convert",
        "FILE_OR_FOLDER",
        "Convert a public checkpoint (LDM's vq-f4, vq-f8, vq-f8-n256, vq-f16; taming's "
        "vqgan-imagenet-f16-1024, vqgan-imagenet-f16-16384; LlamaGen's vq-ds8-c2i, vq-ds16-c2i, "
        "vq-ds16-t2i), or a tokenizer of the hub, into a folder that --tokenizer.path takes.",
        "purrception tokenizer convert vq-f8.ckpt --arch vq-f8 --out tokenizers/vq-f8",
    ),
    Verb(
        "tokenizer train",
        "RECIPE_OR_FOLDER",
        "Train a tokenizer by itself, in one process or under torchrun; or only the decoder of an existing one. "
        "Instead of a recipe or a folder of images, --resume DIR goes on with a training.",
        "purrception tokenizer train photos --training.quantiser cosine --out tokenizers/photos",
    ),
    Verb(
        "tokenizer report",
        "TOKENIZER RECIPE_OR_FOLDER",
        "Judge whether a tokenizer is good enough for these images: use it, fine-tune its decoder, or retrain.",
        "purrception tokenizer report tokenizers/photos photos --out reports/photos",
    ),
    Verb(
        "studio",
        "RUN_OR_PIPELINE",
        "Open a page in the browser, on this machine alone: generate, look inside, edit, compare, read reports.",
        "purrception studio runs/digits",
    ),
    Verb(
        "export",
        "RUN",
        "Write one folder to share: averaged weights, the tokenizer, and a model card filled in from the run.",
        "purrception export runs/digits --out pipelines/digits --licence apache-2.0",
    ),
    Verb(
        "convert",
        "CHECKPOINT",
        "Convert a checkpoint of the paper's public implementation into a pipeline that sample takes.",
        "purrception convert imagenet_dit_last.pth --tokenizer tokenizers/vq-f8 --out pipelines/public",
    ),
    Verb(
        "completion",
        "SHELL",
        "Print what lets a shell complete commands, options, recipes and runs when Tab is pressed: for bash, zsh "
        'or fish. Put eval "$(purrception completion bash)" into ~/.bashrc, the same with zsh into ~/.zshrc, or '
        "purrception completion fish | source into ~/.config/fish/config.fish.",
        "purrception completion bash",
    ),
)
VERBS = {verb.name: verb for verb in _ALL}
"""Every command, by name."""
