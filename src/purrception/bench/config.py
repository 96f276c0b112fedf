"""The sizes of a benchmark; reading them needs no PyTorch, building does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from purrception.bench.peaks import check_tflops
from purrception.models.settings import DiTConfig, HeadConfig, Kernel
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import DeviceOptions

if TYPE_CHECKING:
    import torch

    from purrception.models import CategoricalHead, PurrceptionTransformer

Order = Literal["auto", "turns", "alone"]


@dataclass(frozen=True)
class BenchConfig(DeviceOptions):
    """Sizes of a benchmark; by default those of DiT-S/2 over the codes of vq-f8 at 256 pixels."""

    network: str = "S/2"
    """Size of the backbone (S, B, L or XL) and its patch size."""
    codebook_size: int = 16384
    """Number of codes, K."""
    codebook_dim: int = 4
    """Dimension of a code, D."""
    grid: int = 32
    """Number of sites along one side of the latent grid."""
    head: str = "linear"
    """Kind of head: linear, factored or geometric."""
    rank: int = 64
    """Rank of the low-rank heads."""
    evidence: bool = False
    """Add the evidence to the logits."""
    kernel: Kernel = "auto"
    """Implementation of losses and posteriors: torch, triton or auto, which is triton if available."""
    batch_size: int = 2
    """Number of images per step."""
    steps: int = 20
    """Number of solver steps, for the generation of images."""
    repeats: int = 5
    """Number of measurements, whose median is reported."""
    order: Order = "auto"
    """turns: all variants are built and take turns, so that other load on the machine affects them equally; alone:
    each variant is built, measured and freed before the next, as large networks need; auto: alone on a GPU."""
    memory: bool = True
    """Also measure memory: of one more image and, on a CPU, the peak, each in a process of its own."""
    precision: str = "auto"
    """Precision of the network, float32 or bfloat16 (autocast); auto is bfloat16 on GPUs."""
    compile: bool = False
    """Compile the backbone's blocks and the operations on chunks of logits (torch.compile)."""
    tokenizer_channels: tuple[int, ...] = (32, 64, 64, 64)
    """Widths of the tokenizer, finest resolution first; those of vq-f8 are 128, 256, 256, 512."""
    threads: int = 0
    """Number of CPU threads; 0: torch's default. On a shared machine, 1 gives the fairest comparison."""
    tflops: float = 0.0
    """Dense peak speed of the GPU in TFLOP/s, for the utilisation; 0: that of its name in bfloat16, if known."""
    recompute: bool = False
    """Recompute the backbone's blocks in the backward pass instead of keeping their activations."""

    def __post_init__(self) -> None:
        """Refuse sizes out of range and unknown names."""
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
        """The configuration of the backbone."""
        return DiTConfig.preset(self.network)

    def build(self, device: torch.device) -> PurrceptionTransformer:
        """A network with random weights, also in the head, whose initial zeros might be faster."""
        import torch

        from purrception.models import PurrceptionTransformer

        torch.manual_seed(0)
        with device:  # drawing a large network's weights on the CPU would take longer than measuring it
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
        network.backbone.gradient_checkpointing = self.recompute
        if device.type != "meta":
            network.use_kernel(self.kernel)
            if self.compile:
                network.compile_parts()
        return network

    def build_head(self, device: torch.device) -> CategoricalHead:
        """The head of such a network."""
        import torch

        from purrception.models import CategoricalHead
        from purrception.models.head import build_head

        sizes = self.sizes()
        torch.manual_seed(0)
        codebook = torch.randn(self.codebook_size, self.codebook_dim)
        head = build_head(HeadConfig(self.head, self.rank), sizes.width, codebook, sizes.patch_size).to(device)
        assert isinstance(head, CategoricalHead)
        if device.type != "meta":
            head.use_kernel(self.kernel)
            if self.compile:
                head.compile_chunks()
        return _randomise(head)

    def prepare(self) -> torch.device:
        """Set the number of threads of this process; returns the device."""
        import torch

        from purrception.utils.devices import resolve_device

        if self.threads:
            torch.set_num_threads(self.threads)
        return resolve_device(self.device)

    def alone(self, device: torch.device) -> bool:
        """Whether variants are measured one after the other."""
        return self.order == "alone" or (self.order == "auto" and device.type == "cuda")

    def autocast(self, device: torch.device, *, cache: bool = True) -> torch.autocast:
        """A context with the precision of the network; ``cache``: weights are cast once within it."""
        from purrception.utils.devices import autocast

        return autocast(self.precision, device, cache=cache)


def _randomise(head: CategoricalHead) -> CategoricalHead:
    import torch

    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return head
