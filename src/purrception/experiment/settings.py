"""What ``purrception prepare`` and ``plan`` can be told; reading it needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from purrception.bench.peaks import PEAK_TFLOPS, check_tflops, known_peak
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import ProcessOptions, check_numbers


@dataclass(frozen=True)
class PrepareOptions(ProcessOptions):
    """What ``purrception prepare`` takes besides the images."""

    tokenizer: str = ""
    """Folder of the tokenizer (a diffusers VQModel), hub:OWNER/NAME, or a checkpoint file to convert (--arch).
    Required."""
    arch: str = ""
    """Architecture of the checkpoint file; see ``purrception tokenizer convert``."""
    out: str = ""
    """Folder for the shards, OUT/train and OUT/test. Required. The same command goes on after an interruption."""
    images_per_shard: int = 4096
    """Number of images per shard."""
    batch_size: int = 0
    """Number of images encoded at a time; 0: about a megapixel."""
    workers: int = 0
    """Number of threads that read and decode images; 0: one per core."""
    strict: bool = False
    """Stop at the first broken image; otherwise broken images are skipped and listed in report.jsonl."""
    seed: int = 0
    """Seed of the random crops: crop v of image i depends on (seed, i, v) alone."""


@dataclass(frozen=True)
class PlanOptions:
    """The machine that a plan is for; default: this machine."""

    OPTIONS: ClassVar[dict[str, str]] = {"images": "num_images", "classes": "num_classes"}
    """What fields are called on the command line, where it is not their own name."""

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
