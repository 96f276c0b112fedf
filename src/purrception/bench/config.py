"""What is measured, and at which sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from purrception.errors import InputError
from purrception.models import DiTConfig, HeadConfig, PurrceptionTransformer


@dataclass(frozen=True)
class BenchConfig:
    """Sizes of a measurement; the defaults are the issue's: DiT-S/2 over vq-f8's codes at 256 pixels."""

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
    batch_size: int = 2
    """Images per step."""
    repeats: int = 5
    """Measurements of each, in turns; the median is reported."""
    memory: bool = True
    """Measure memory too, each in a process of its own."""
    precision: str = "auto"
    """float32 or bfloat16 (autocast); auto is bfloat16 on GPUs."""
    compile: bool = False
    """Compile the backbone's blocks (torch.compile)."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.batch_size, self.repeats, self.grid) < 1:
            raise InputError(
                f"bench needs batch_size, repeats and grid of at least 1; given {self.batch_size}, "
                f"{self.repeats} and {self.grid}"
            )
        self.sizes().tokens((self.grid, self.grid))
        HeadConfig(self.head, self.rank, self.evidence)

    def sizes(self) -> DiTConfig:
        """The backbone."""
        return DiTConfig.preset(self.network)

    def build(self, device: torch.device, head: str | None = None) -> PurrceptionTransformer:
        """A network of these sizes with random weights everywhere: a head at zero would be measured on zeros."""
        sizes = self.sizes()
        torch.manual_seed(0)
        network = PurrceptionTransformer(
            (self.grid, self.grid), self.codebook_size, self.codebook_dim, num_classes=1000,
            depth=sizes.depth, width=sizes.width, heads=sizes.heads, patch_size=sizes.patch_size,
            head_kind=head or self.head, head_rank=self.rank, evidence=self.evidence,
        )  # fmt: skip
        network.set_codebook(torch.randn(self.codebook_size, self.codebook_dim))
        for parameter in network.head.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        network.to(device)
        if self.compile:
            network.backbone.blocks.compile()
        return network

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of the network."""
        low = self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low)
