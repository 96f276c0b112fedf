"""What is asked, and what a plan says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from purrception.bench.peaks import PEAK_TFLOPS, check_tflops, known_peak
from purrception.experiment.plan.images import Images
from purrception.experiment.plan.speed import Speed
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers
from purrception.utils.text import BYTES, COUNTS, FLOPS, TIMES, Units, in_units


@dataclass(frozen=True)
class PlanOptions:
    """The machine that a plan is for; default: the one that it is made on."""

    gpus: int | None = None
    """GPUs, one process each; they share the batch evenly, and the state as training.parallel says. Default: 1."""
    gpus_per_machine: int = 8
    """GPUs of one machine, which hold a copy together under hybrid unless training.shards says otherwise."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where GPUs are counted or named, else as the run would choose here."""
    gpu: str = ""
    """Name of a GPU that is not here, for its dense bfloat16 peak: A100, H100, H200, …"""
    tflops: float | None = None
    """Peak of one device, TFLOP/s, where it is not known by name or measured."""
    utilisation: float | None = None
    """Share of the peak that training reaches. Default: measured over a few steps here, where they are small
    enough, else 0.5."""
    images: int | None = None
    """Images, of both splits. Default: counted; ImageNet's for its recipes."""
    classes: int | None = None
    """Classes. Default: as the recipe says, or the images have."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        """Refuse a machine that cannot be."""
        for name in ("gpus", "gpus_per_machine", "images"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise InputError(f"a plan needs {name} of at least 1; given {given}")
        if self.classes is not None and self.classes < 0:
            raise InputError(f"classes is at least 0; given {self.classes}")
        if self.tflops is not None:
            check_tflops(self.tflops)
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise InputError(f"utilisation lies in (0, 1]; given {self.utilisation}")
        if self.gpu and known_peak(self.gpu) is None:
            raise unknown_name("GPU", self.gpu, PEAK_TFLOPS)
        if self.gpu and self.device == "cpu":
            raise InputError(f"a plan is for a GPU or for the processor; given --gpu {self.gpu} and --device cpu")
        check_numbers(self, "", gpus=2**24, gpus_per_machine=2**24, images=10**12, classes=2**17, tflops=1e12)


@dataclass(frozen=True)
class Plan:
    """The cost of a run; bytes are per process, operations per image."""

    recipe: str
    machine: PlanOptions
    images: Images
    grid: tuple[int, int]
    codebook_size: int
    codebook_dim: int
    parameters: dict[str, int]
    """By part."""
    forward_flops: dict[str, int]
    """Of one image, by part."""
    training_flops: float
    """Of one image: forward, backward, and the evidence."""
    images_per_process: int
    memory: dict[str, int]
    """By kind; weights, gradients, optimiser and moving average in shards where they are."""
    shards: int
    """Processes that hold one copy of the state together."""
    bytes_per_row: int
    """Of the token shards."""
    disk: int | None
    """Bytes of the token shards; nothing where the images are not known."""
    steps: int
    batch_size: int
    speed: Speed
    seconds: float
    """The steps of the whole training, without tokenizer, held-out loss, sample grids and checkpoints."""

    def json(self) -> str:
        """For machines."""
        return json.dumps(asdict(self), indent=2)

    def text(self) -> str:
        """For people."""

        def parts(named: dict[str, int], units: Units) -> str:
            return ", ".join(f"{name} {in_units(size, units)}" for name, size in named.items())

        rates = {"steps": self.steps / self.seconds, "images": self.steps * self.batch_size / self.seconds}
        rate = ", ".join(f"{in_units(number, COUNTS[:1])} {name}/s" for name, number in rates.items())
        return "\n".join(
            [
                f"images      {self._describe_images()}",
                f"grid        {self.grid[0]}×{self.grid[1]} sites, K = {self.codebook_size}, "
                f"D = {self.codebook_dim}",
                f"parameters  {in_units(sum(self.parameters.values()), COUNTS)}: {parts(self.parameters, COUNTS)}",
                f"forward     {in_units(sum(self.forward_flops.values()), FLOPS)} an image: "
                f"{parts(self.forward_flops, FLOPS)}",
                f"training    {in_units(self.training_flops, FLOPS)} an image",
                f"memory      {in_units(sum(self.memory.values()), BYTES)} a process of {self.images_per_process} "
                f"images, the state in {self.shards} shard{'s' if self.shards > 1 else ''}: "
                f"{parts(self.memory, BYTES)}",
                f"disk        {'unknown' if self.disk is None else in_units(self.disk, BYTES)} of token shards, "
                f"{in_units(self.bytes_per_row, BYTES)} a row",
                f"speed       {self._describe_speed()}",
                f"time        {self.steps} steps of {self.batch_size} images: {in_units(self.seconds, TIMES)}, "
                f"{rate}; tokenizer, held-out loss, sample grids and checkpoints come on top",
            ]
        )

    def _describe_images(self) -> str:
        images = self.images
        counted = (
            "unknown (give their number with --images)"
            if images.train is None
            else f"{images.train} to learn from, {images.held_out} held out"
        )
        classes = f"{images.classes or 'no'} classes"
        return f"{counted}, {classes if images.classes_known else 'as if without classes (--classes)'}"

    def _describe_speed(self) -> str:
        speed, count, percent = self.speed, self.machine.gpus or 1, f"{100 * self.speed.utilisation:.2g}"
        reached = (
            f"of which {speed.steps_taken} training steps taken here reached {percent} %"
            if speed.steps_taken
            else f"of which training is to reach {percent} % "
            f"({'given' if self.machine.utilisation else 'a supposition'})"
        )
        one = in_units(1e12 * speed.tflops, FLOPS)
        return f"{f'{count} × ' if count > 1 else ''}{one}/s ({speed.source}), {reached}"
