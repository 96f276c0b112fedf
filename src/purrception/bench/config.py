"""What is measured, and at which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from purrception.bench.peaks import check_tflops
from purrception.models import CategoricalHead, DiTConfig, HeadConfig, Kernel, PurrceptionTransformer
from purrception.utils.devices import autocast
from purrception.utils.errors import InputError, unknown_name

Order = Literal["auto", "turns", "alone"]


@dataclass(frozen=True)
class BenchConfig:
    """Sizes of a measurement; by default those of DiT-S/2 over vq-f8's codes at 256 pixels."""

    network: str = "S/2"
    """Size of the backbone: S, B, L or XL, and the patch size."""
    codebook_size: int = 16384
    """K."""
    codebook_dim: int = 4
    """D."""
    grid: int = 32
    """Sites along one side of the latent grid."""
    head: str = "linear"
    """linear, factored or geometric."""
    rank: int = 64
    """Of the low-rank heads."""
    evidence: bool = False
    """Add the evidence to the logits."""
    kernel: Kernel = "auto"
    """What makes losses and posteriors of logits: torch, triton or auto, which is triton on a GPU that has it."""
    batch_size: int = 2
    """Images per step."""
    steps: int = 20
    """Of the solver, for whole images."""
    repeats: int = 5
    """Measurements of each; the median is reported."""
    order: Order = "auto"
    """turns: all variants are there and take turns, so that what else the machine does falls on all; alone: one is
    made, measured and forgotten before the next, which large networks ask for; auto: alone on a GPU."""
    memory: bool = True
    """Measure the memory of one more image too; on a processor all memory, each in a process of its own."""
    precision: str = "auto"
    """float32 or bfloat16 (autocast); auto is bfloat16 on GPUs."""
    compile: bool = False
    """Compile the backbone's blocks and what is done to a chunk of logits (torch.compile)."""
    tokenizer_channels: tuple[int, ...] = (32, 64, 64, 64)
    """Widths of the tokenizer that is timed, finest first; vq-f8's are 128, 256, 256, 512."""
    threads: int = 0
    """Threads on the processor; 0: as many as torch takes. On a machine that others use, 1 is the fairest."""
    tflops: float = 0.0
    """Dense peak of the GPU, for its utilisation; 0: known by name for some, in bfloat16."""
    recompute: bool = False
    """Compute the backbone's blocks again in the backward pass instead of keeping them."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.batch_size, self.steps, self.repeats, self.grid) < 1 or self.threads < 0:
            raise InputError(
                "bench needs batch_size, steps, repeats and grid of at least 1, threads of at least 0; given "
                f"{self.batch_size}, {self.steps}, {self.repeats}, {self.grid} and {self.threads}"
            )
        if self.order not in get_args(Order):
            raise unknown_name("order", self.order, get_args(Order))
        if self.tflops:
            check_tflops(self.tflops)
        self.sizes().patches((self.grid, self.grid))
        HeadConfig(self.head, self.rank, self.evidence)

    def sizes(self) -> DiTConfig:
        """The backbone."""
        return DiTConfig.preset(self.network)

    def build(self, device: torch.device) -> PurrceptionTransformer:
        """A network of these sizes with random weights everywhere: a head at zero would be measured on zeros."""
        torch.manual_seed(0)
        with device:  # drawing the weights of a large network on the processor would take longer than measuring it
            network = PurrceptionTransformer.from_settings(
                self.sizes(),
                HeadConfig(self.head, self.rank, self.evidence),
                grid=(self.grid, self.grid),
                codebook_size=self.codebook_size,
                codebook_dim=self.codebook_dim,
                num_classes=1000,
            )
            network.set_codebook(torch.randn(self.codebook_size, self.codebook_dim))
        _randomise(network.head)
        network.backbone.recompute = self.recompute
        if device.type != "meta":  # where only shapes are asked for
            network.use_kernel(self.kernel)
            if self.compile:
                network.compile_parts()
        return network

    def build_head(self, device: torch.device) -> CategoricalHead:
        """The head of such a network alone."""
        sizes = self.sizes()
        torch.manual_seed(0)
        codebook = torch.randn(self.codebook_size, self.codebook_dim)
        head = HeadConfig(self.head, self.rank).build(sizes.width, codebook, sizes.patch_size).to(device)
        assert isinstance(head, CategoricalHead)
        if device.type != "meta":
            head.use_kernel(self.kernel)
            if self.compile:
                head.compile_chunks()
        return _randomise(head)

    def alone(self, device: torch.device) -> bool:
        """Whether variants are measured one after the other."""
        return self.order == "alone" or (self.order == "auto" and device.type == "cuda")

    def autocast(self, device: torch.device, *, cache: bool = True) -> torch.autocast:
        """The precision of the network; ``cache``: weights are cast once within the context."""
        return autocast(self.precision, device, cache=cache)


def _randomise(head: CategoricalHead) -> CategoricalHead:
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return head
