"""The settings of a network. Reading them needs no PyTorch, so that a command can explain its options at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_numbers

Norm = Literal["layer", "rms"]
MLP = Literal["gelu", "swiglu"]
Positions = Literal["sinusoidal", "rotary"]
Kernel = Literal["auto", "torch", "triton"]
"""How logits become losses and posteriors: by torch operations on chunks (:mod:`models.chunked_loss` and
:mod:`models.chunked_posterior`), or by the Triton kernels of :mod:`models.fused`. auto takes the latter on a CUDA
device that has Triton."""

# depth, width, heads. S to XL are the paper's; the smaller ones train on a laptop's processor.
DIT_SIZES = {
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
    "tiny": (6, 192, 3),
    "mini": (4, 128, 4),
    "nano": (2, 64, 2),
}
CATEGORICAL_HEADS = ("linear", "factored", "geometric")
"""The heads that give a posterior over the codebook."""
HEAD_KINDS = (*CATEGORICAL_HEADS, "regression")
"""Every head; :mod:`purrception.models.head` says which class each is."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the backbone."""

    depth: int = 4
    """Number of blocks."""
    width: int = 128
    """Channels of a patch."""
    heads: int = 4
    """Number of attention heads; it divides the width."""
    patch_size: int = 2
    """Sites of a patch along one side."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP, as a multiple of the width."""
    time_scale: float = 1000.0
    """Factor by which t in [0, 1] is multiplied before its sinusoidal embedding."""
    norm: Norm = "layer"
    """Kind of normalisation: layer (DiT's), or rms, which does not subtract the mean."""
    mlp: MLP = "gelu"
    """Kind of MLP: gelu (DiT's), or swiglu, which has about as many weights."""
    positions: Positions = "sinusoidal"
    """Kind of positions: sinusoidal (DiT's), added to the patches, or rotary, which rotate queries and keys."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, so that attention cannot saturate."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        bounds = {"depth": 1024, "width": 2**16, "heads": 2**12, "patch_size": 64, "mlp_ratio": 64}
        check_numbers(self, "network.", **bounds)
        if min(self.depth, self.width, self.heads, self.patch_size) < 1:
            raise InputError(
                "network depth, width, heads and patch_size are at least 1; given "
                f"{self.depth}, {self.width}, {self.heads} and {self.patch_size}"
            )
        if self.width * self.mlp_ratio < 1:
            raise InputError(f"network.mlp_ratio leaves an MLP at least 1 channel; given {self.mlp_ratio}")
        if self.width % self.heads or self.width % 4:
            raise InputError(
                f"network.width is a multiple of network.heads and of 4; given {self.width} and {self.heads}"
            )
        for name, kind in (("norm", Norm), ("mlp", MLP), ("positions", Positions)):
            if getattr(self, name) not in get_args(kind):
                raise unknown_name(f"network.{name}", getattr(self, name), get_args(kind))
        if self.positions == "rotary" and self.head_width % 4:
            raise InputError(
                "rotary positions rotate pairs of channels by row and by column: network.width / network.heads is "
                f"a multiple of 4; given {self.width} and {self.heads}"
            )

    @property
    def head_width(self) -> int:
        """Channels of an attention head."""
        return self.width // self.heads

    @classmethod
    def preset(cls, name: str) -> DiTConfig:
        """Sizes by name and patch size, as in the literature: ``"XL/2"``, ``"B/2"``, ``"mini/1"``.

        Raises:
            InputError: no such size, or a patch that is not a number.
        """
        size, _, patch = name.partition("/")
        if size not in DIT_SIZES:
            raise unknown_name("DiT size", size, DIT_SIZES)
        if not patch.isdecimal():
            raise InputError(f"a DiT preset is a size and a patch, like 'B/2'; given {name!r}")
        depth, width, heads = DIT_SIZES[size]
        return cls(depth=depth, width=width, heads=heads, patch_size=int(patch))

    def patches(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of a grid of (h, w) sites.

        Raises:
            InputError: the patch does not divide the grid.
        """
        if any(side % self.patch_size for side in grid):
            raise InputError(f"network.patch_size {self.patch_size} does not divide the grid {grid[0]}×{grid[1]}")
        return grid[0] // self.patch_size, grid[1] // self.patch_size


@dataclass(frozen=True)
class HeadConfig:
    """Which head, and its size."""

    kind: str = "linear"
    """The head of an objective with a posterior: linear (the paper's), factored (low rank) or geometric (low rank,
    and codes near each other share what they learn). The continuous objectives always take the regression head."""
    rank: int = 64
    """Channels of a site's features in the factored and geometric heads."""
    evidence: bool = False
    """Whether the closed-form evidence in z_t about its own code is added to the logits of a categorical head."""

    def __post_init__(self) -> None:
        """Refuse a head that does not exist, or that cannot be built.

        Raises:
            InputError: an unknown kind (with the nearest known one), a rank below 1, or evidence for a head
                without logits to add it to.
        """
        check_numbers(self, "head.", rank=2**16)
        if self.kind not in HEAD_KINDS:
            raise unknown_name("head", self.kind, HEAD_KINDS)
        if self.rank < 1:
            raise InputError(f"head.rank is at least 1; given {self.rank}")
        if self.evidence and self.kind not in CATEGORICAL_HEADS:
            raise InputError(
                f"head.evidence belongs to a head with logits; given with the head {self.kind!r}: leave it "
                f"out, or take one of {', '.join(CATEGORICAL_HEADS)}"
            )

    def for_family(self, family: Literal["categorical", "regression"]) -> HeadConfig:
        """The head of an objective that needs a head of this family."""
        return replace(self, kind="regression") if family == "regression" else self
