"""The public tokenizers' networks in plain torch, with their tensor names: what a conversion is compared with.

Written for these tests from the published architectures; tiny widths, except where only shapes matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    codebook_size: int
    codebook_dim: int
    latent_channels: int
    multipliers: tuple[int, ...]
    attention: bool
    base: int


PUBLISHED = {
    "vq-f4": Sizes(8192, 3, 3, (1, 2, 4), False, 128),
    "vq-f8": Sizes(16384, 4, 4, (1, 2, 2, 4), True, 128),
    "vq-f8-n256": Sizes(256, 4, 4, (1, 2, 2, 4), True, 128),
    "vq-f16": Sizes(16384, 8, 8, (1, 1, 2, 2, 4), True, 128),
    "vqgan-imagenet-f16-1024": Sizes(1024, 256, 256, (1, 1, 2, 2, 4), True, 128),
    "vqgan-imagenet-f16-16384": Sizes(16384, 256, 256, (1, 1, 2, 2, 4), True, 128),
    "vq-ds8-c2i": Sizes(16384, 8, 256, (1, 2, 2, 4), True, 128),
    "vq-ds16-c2i": Sizes(16384, 8, 256, (1, 1, 2, 2, 4), True, 128),
    "vq-ds16-t2i": Sizes(16384, 8, 256, (1, 1, 2, 2, 4), True, 128),
}


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return inner + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class SelfAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / x.shape[1] ** 0.5, dim=-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


class Halve(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def level(before: int, after: int, blocks: int, attention: bool, names: tuple[str, str]) -> nn.Module:
    made = nn.Module()
    widths = [before] + [after] * (blocks - 1)
    setattr(made, names[0], nn.ModuleList(Residual(width, after) for width in widths))
    setattr(made, names[1], nn.ModuleList(SelfAttention(after) for _ in range(blocks if attention else 0)))
    return made


def walk(x: Tensor, made: nn.Module, names: tuple[str, str]) -> Tensor:
    attention = getattr(made, names[1])
    for number, block in enumerate(getattr(made, names[0])):
        x = block(x)
        if len(attention):
            x = attention[number](x)
    return x


class Coder(nn.Module):
    """An encoder or a decoder of either family; subclasses hold the middle and the order of levels."""

    names: tuple[str, str]

    def middle(self, width: int) -> None:
        raise NotImplementedError

    def through_middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(x)))


class TamingMiddle(Coder):
    names = ("block", "attn")

    def middle(self, width: int) -> None:
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = Residual(width, width), SelfAttention(width)
        self.mid.block_2 = Residual(width, width)

    def through_middle(self, x: Tensor) -> Tensor:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))


class LlamaGenMiddle(Coder):
    names = ("res", "attn")

    def middle(self, width: int) -> None:
        self.mid = nn.ModuleList([Residual(width, width), SelfAttention(width), Residual(width, width)])

    def through_middle(self, x: Tensor) -> Tensor:
        for part in self.mid:
            x = part(x)
        return x


def encoder(middle: type[Coder], levels: str, sizes: Sizes) -> Coder:
    class Encoder(middle):
        def __init__(self) -> None:
            super().__init__()
            widths = [sizes.base * m for m in sizes.multipliers]
            self.conv_in = nn.Conv2d(3, sizes.base, 3, padding=1)
            made = []
            for number, (before, after) in enumerate(zip([sizes.base, *widths], widths, strict=False)):
                last = number == len(widths) - 1
                made.append(level(before, after, 2, sizes.attention and last, self.names))
                if not last:
                    made[-1].downsample = Halve(after)
            setattr(self, levels, nn.ModuleList(made))
            self.middle(widths[-1])
            self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], sizes.latent_channels, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv_in(x)
            for made in getattr(self, levels):
                x = walk(x, made, self.names)
                x = made.downsample(x) if hasattr(made, "downsample") else x
            return self.finish(self.through_middle(x))

    return Encoder()


def decoder(middle: type[Coder], levels: str, sizes: Sizes, finest_first: bool) -> Coder:
    class Decoder(middle):
        def __init__(self) -> None:
            super().__init__()
            widths = [sizes.base * m for m in reversed(sizes.multipliers)]  # coarsest first, as it is walked
            self.conv_in = nn.Conv2d(sizes.latent_channels, widths[0], 3, padding=1)
            self.middle(widths[0])
            made = []
            for number, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
                made.append(level(before, after, 3, sizes.attention and number == 0, self.names))
                if number < len(widths) - 1:
                    made[-1].upsample = Double(after)
            setattr(self, levels, nn.ModuleList(reversed(made) if finest_first else made))
            self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.through_middle(self.conv_in(x))
            order = list(getattr(self, levels))
            for made in reversed(order) if finest_first else order:
                x = walk(x, made, self.names)
                x = made.upsample(x) if hasattr(made, "upsample") else x
            return self.finish(x)

    return Decoder()


class Reference(nn.Module):
    """A whole public tokenizer: ``encode`` gives indices, ``decode`` images."""

    def __init__(self, arch: str, sizes: Sizes) -> None:
        super().__init__()
        self.llamagen = "ds" in arch
        if self.llamagen:
            self.encoder = encoder(LlamaGenMiddle, "conv_blocks", sizes)
            self.decoder = decoder(LlamaGenMiddle, "conv_blocks", sizes, finest_first=False)
        else:
            self.encoder = encoder(TamingMiddle, "down", sizes)
            self.decoder = decoder(TamingMiddle, "up", sizes, finest_first=True)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(sizes.codebook_size, sizes.codebook_dim)
        if self.llamagen:
            self.quantize.register_buffer("codebook_used", torch.zeros(65536))
        self.quant_conv = nn.Conv2d(sizes.latent_channels, sizes.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(sizes.codebook_dim, sizes.latent_channels, 1)

    def unit(self, x: Tensor) -> Tensor:
        """Directions only, where the source compares directions; the channels come last."""
        return x / x.norm(dim=-1, keepdim=True) if self.llamagen else x

    def codes(self) -> Tensor:
        return self.unit(self.quantize.embedding.weight)

    def latents(self, images: Tensor) -> Tensor:
        return self.unit(self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1))

    def encode(self, images: Tensor) -> Tensor:
        offsets = self.latents(images)[..., None, :] - self.codes()
        return offsets.square().sum(-1).argmin(-1)

    def decode(self, indices: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(self.codes()[indices].permute(0, 3, 1, 2)))


def random_reference(arch: str, base: int = 32, codebook_size: int = 300) -> Reference:
    """A narrow tokenizer with random weights, whose codes lie where its latents do."""
    published = PUBLISHED[arch]
    sizes = Sizes(
        codebook_size,
        published.codebook_dim,
        min(published.latent_channels, 16),
        published.multipliers,
        published.attention,
        base,
    )
    made = Reference(arch, sizes).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    factor = 2 ** (len(sizes.multipliers) - 1)
    sites = made.quant_conv(made.encoder(random_images(2, 6 * factor))).movedim(1, -1).flatten(0, 2)
    chosen = sites[torch.randint(len(sites), (codebook_size,))]
    codes = chosen + 0.5 * sites.std(0) * torch.randn_like(chosen)
    lengths = 1 + torch.rand(codebook_size, 1) if made.llamagen else 1  # which LlamaGen's codes are free in
    made.quantize.embedding.weight.copy_(codes * lengths)
    return made


def random_images(count: int, side: int) -> Tensor:
    """Images ``[count, 3, side, side]`` in [−1, 1]: blotches of colour under noise."""
    blotches = F.interpolate(torch.rand(count, 3, 5, 5) * 2 - 1, side, mode="bilinear")
    return (blotches + 0.3 * torch.randn(count, 3, side, side)).clamp(-1, 1)
