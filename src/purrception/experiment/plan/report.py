"""The options of a plan, and its result as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from purrception.experiment.plan.images import ImageCounts
from purrception.experiment.plan.speed import Speed
from purrception.experiment.settings import PlanOptions
from purrception.utils.text import BYTES, COUNTS, FLOPS, TIMES, Units, aligned, in_units


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
            "unknown (give their number with --num-images)"
            if images.train is None
            else f"{images.train} for training, {images.held_out} held out"
        )
        classes = f"{images.classes or 'no'} classes"
        return f"{counted}, {classes if images.classes_known else 'assuming no classes (--num-classes)'}"

    def _describe_speed(self) -> str:
        speed, count, percent = self.speed, self.machine.gpus or 1, f"{100 * self.speed.utilisation:.2g}"
        reached = (
            f"of which {speed.steps_taken} training steps measured here reached {percent} %"
            if speed.steps_taken
            else f"of which training reaches {percent} % ({'given' if self.machine.utilisation else 'assumed'})"
        )
        one = in_units(1e12 * speed.tflops, FLOPS)
        return f"{f'{count} × ' if count > 1 else ''}{one}/s ({speed.source}), {reached}"
