"""The options of a plan, and its result as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from purrception.bench.peaks import PEAK_TFLOPS, check_tflops, known_peak
from purrception.experiment.plan.images import ImageCounts
from purrception.experiment.plan.speed import Speed
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers
from purrception.utils.terminal import aligned
from purrception.utils.text import BYTES, COUNTS, FLOPS, TIMES, Units, in_units


@dataclass(frozen=True)
class PlanOptions:
    """The machine that a plan is for; default: this machine."""

    gpus: int | None = None
    """Number of GPUs, with one process each; they share the batch, and the state according to training.parallel.
    Default: 1."""
    gpus_per_machine: int = 8
    """Number of GPUs of a machine, which share one copy under hybrid unless training.shards is set."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Kind of device; auto: cuda if gpus or gpu is given, else what the run would choose on this machine."""
    gpu: str = ""
    """Name of a GPU, such as A100, H100 or H200, whose dense bfloat16 peak to assume."""
    tflops: float | None = None
    """Peak speed of one device in TFLOP/s. Default: known by the GPU's name, or measured."""
    utilisation: float | None = None
    """Share of the peak speed that training reaches. Default: measured in a few training steps if they are small
    enough for this machine, else assumed: 0.3 on GPUs (0.4 compiled), 0.5 on CPUs."""
    images: int | None = None
    """Number of images in both splits. Default: counted; that of ImageNet for its recipes."""
    classes: int | None = None
    """Number of classes. Default: that of the recipe or of the images."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        """Refuse options out of range or that contradict each other."""
        for name in ("gpus", "gpus_per_machine", "images"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise InputError(f"a plan needs {name} of at least 1; given {given}")
        if self.classes is not None and self.classes < 0:
            raise InputError(f"classes must be at least 0; given {self.classes}")
        if self.tflops is not None:
            check_tflops(self.tflops)
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise InputError(f"utilisation must lie in (0, 1]; given {self.utilisation}")
        if self.gpu and known_peak(self.gpu) is None:
            raise unknown_name("GPU", self.gpu, PEAK_TFLOPS)
        if self.gpu and self.device == "cpu":
            raise InputError(f"a plan is for a GPU or a CPU, not both; given --gpu {self.gpu} and --device cpu")
        check_numbers(self, "", gpus=2**24, gpus_per_machine=2**24, images=10**12, classes=2**17, tflops=1e12)


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a run; bytes are per process, operations per image."""

    recipe: str
    machine: PlanOptions
    images: ImageCounts
    grid: tuple[int, int]
    codebook_size: int
    codebook_dim: int
    parameters: dict[str, int]
    """Number of parameters by part of the network."""
    forward_flops: dict[str, int]
    """Operations of a forward pass by part of the network."""
    training_flops: float
    """Operations of a training step: forward, backward, and the evidence."""
    images_per_process: int
    """Images of a microbatch in one process."""
    memory: dict[str, int]
    """Bytes by kind; of sharded state, the shard of one process."""
    shards: int
    """Number of processes that share one copy of the state."""
    bytes_per_row: int
    """Bytes of a row of the token shards."""
    disk: int | None
    """Bytes of the token shards; ``None`` if the number of images is unknown."""
    steps: int
    batch_size: int
    speed: Speed
    seconds: float
    """Duration of all training steps, without tokenizer, held-out loss, sample grids and checkpoints."""

    def json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self), indent=2)

    def text(self) -> str:
        """The plan as text."""

        def parts(named: dict[str, int], units: Units) -> str:
            return ", ".join(f"{name} {in_units(size, units)}" for name, size in named.items())

        rates = {"steps": self.steps / self.seconds, "images": self.steps * self.batch_size / self.seconds}
        rate = ", ".join(f"{in_units(number, COUNTS[:1])} {name}/s" for name, number in rates.items())
        return aligned(
            {
                "images": self._describe_images(),
                "grid": f"{self.grid[0]}×{self.grid[1]} sites, K = {self.codebook_size}, D = {self.codebook_dim}",
                "parameters": f"{in_units(sum(self.parameters.values()), COUNTS)}: "
                f"{parts(self.parameters, COUNTS)}",
                "forward": f"{in_units(sum(self.forward_flops.values()), FLOPS)} an image: "
                f"{parts(self.forward_flops, FLOPS)}",
                "training": f"{in_units(self.training_flops, FLOPS)} an image",
                "memory": f"{in_units(sum(self.memory.values()), BYTES)} a process of {self.images_per_process} "
                f"images, the state in {self.shards} shard{'s' if self.shards > 1 else ''}: "
                f"{parts(self.memory, BYTES)}",
                "disk": f"{'unknown' if self.disk is None else in_units(self.disk, BYTES)} of token shards, "
                f"{in_units(self.bytes_per_row, BYTES)} a row",
                "speed": self._describe_speed(),
                "time": f"{self.steps} steps of {self.batch_size} images: {in_units(self.seconds, TIMES)}, "
                f"{rate}; tokenizer, held-out loss, sample grids and checkpoints take extra time",
            }
        )

    def _describe_images(self) -> str:
        images = self.images
        counted = (
            "unknown (give their number with --images)"
            if images.train is None
            else f"{images.train} for training, {images.held_out} held out"
        )
        classes = f"{images.classes or 'no'} classes"
        return f"{counted}, {classes if images.classes_known else 'assuming no classes (--classes)'}"

    def _describe_speed(self) -> str:
        speed, count, percent = self.speed, self.machine.gpus or 1, f"{100 * self.speed.utilisation:.2g}"
        reached = (
            f"of which {speed.steps_taken} training steps measured here reached {percent} %"
            if speed.steps_taken
            else f"of which training reaches {percent} % ({'given' if self.machine.utilisation else 'assumed'})"
        )
        one = in_units(1e12 * speed.tflops, FLOPS)
        return f"{f'{count} × ' if count > 1 else ''}{one}/s ({speed.source}), {reached}"
