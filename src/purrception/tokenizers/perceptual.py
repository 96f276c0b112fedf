"""LPIPS with VGG16 (arXiv 1801.03924): a distance between images in the features of a recognition network.

The user provides the weights: a file of torchvision's VGG16 and one of LPIPS's linear layers, or both in one.
The lpips package computes the same, but needs torchvision, and unpickles and downloads weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.storage.finite import require_finite
from purrception.storage.foreign_weights import read_weights, tensors_in
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import require

WIDTHS = (64, 128, 256, 512, 512)
"""The channels of VGG16's five stages."""
CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions of each stage, by torchvision's numbers."""
HUB_FILE = re.compile(r"hub:([\w.-]+/[\w.-]+):([\w./-]+)")


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, with frozen weights.

    Args:
        files: where the weights are; see :func:`find_weights`. Tensors may have torchvision's names
            (``features.0.weight``), those of the lpips package (``net.slice1.0.weight``, ``lin0.model.1.weight``)
            and any prefix.

    Raises:
        InputError: a file is missing or has no tensors; tensors are missing (all are listed) or of another shape.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__()
        tensors: dict[str, Tensor] = {}
        for file in files:
            path = find_weights(file)
            tensors |= tensors_in(read_weights(path), ("state_dict",), path)
        widths = [3, *(width for width, numbers in zip(WIDTHS, CONVOLUTIONS, strict=True) for _ in numbers)]
        self.layers = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1) for narrow, wide in pairwise(widths))
        self.linear = nn.ParameterList(torch.empty(width) for width in WIDTHS)
        self._fill(tensors, files)
        # ImageNet's mean and standard deviation, for images in [−1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def _fill(self, tensors: dict[str, Tensor], files: Sequence[str]) -> None:
        """Copy the tensors into place, each under the one of its names that exists."""
        numbered = [(stage, number) for stage, numbers in enumerate(CONVOLUTIONS) for number in numbers]
        needed: list[tuple[Tensor, tuple[str, str]]] = [
            (getattr(layer, part), (f"features.{number}.{part}", f"net.slice{stage + 1}.{number}.{part}"))
            for layer, (stage, number) in zip(self.layers, numbered, strict=True)
            for part in ("weight", "bias")
        ]
        needed += [
            (weight, (f"lin{stage}.model.1.weight", f"lins.{stage}.model.1.weight"))
            for stage, weight in enumerate(self.linear)
        ]
        found = {names[0]: tensor for _, names in needed if (tensor := _find(tensors, names)) is not None}
        if missing := [names[0] for _, names in needed if names[0] not in found]:
            raise InputError(
                f"{', '.join(files)} lack {', '.join(missing)}: perceptual_weights are VGG16 as torchvision "
                "names it and the linear layers of LPIPS, in one file or several"
            )
        require_finite(found, ", ".join(files))
        for target, (name, _) in needed:
            shape = list(found[name].shape)
            if found[name].numel() != target.numel():
                raise InputError(f"{name} has shape {shape}; expected {list(target.shape)}: this is no VGG16")
            target.data.copy_(found[name].view_as(target))

    def features(self, images: Tensor) -> list[Tensor]:
        """Images ``[B, C, H, W]`` in [−1, 1], C = 1 or 3 → unit features of five stages, ``[B, width, h, w]``."""
        x = (images.expand(-1, 3, -1, -1) - self.shift) / self.scale
        found, layers = [], iter(self.layers)
        for stage, numbers in enumerate(CONVOLUTIONS):
            x = F.max_pool2d(x, 2) if stage else x
            for _ in numbers:
                x = F.relu(next(layers)(x))
            # The small number stands inside the root, whose gradient at 0 would otherwise not be finite.
            found.append(x.float() * (x.float().square().sum(dim=1, keepdim=True) + 1e-10).rsqrt())
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distances ``[B]`` of images ``[B, C, H, W]`` in [−1, 1] with sides of at least 16 pixels."""
        pairs = zip(self.features(a), self.features(b), self.linear, strict=True)
        return torch.stack([((x - y).square() * w.view(-1, 1, 1)).sum(1).mean((1, 2)) for x, y, w in pairs]).sum(0)


def _find(tensors: dict[str, Tensor], names: tuple[str, str]) -> Tensor | None:
    for name in names:
        for key, tensor in tensors.items():
            if key == name or key.endswith(f".{name}"):
                return tensor
    return None


def find_weights(source: str) -> Path:
    """The path of a file on this machine, or of ``hub:owner/name:file``, which is downloaded from the hub.

    Raises:
        InputError: there is no such file.
    """
    if Path(source).is_file():
        return Path(source)
    match = HUB_FILE.fullmatch(source)
    if not match:
        raise InputError(f"no weights at {source}: give a .safetensors, .pt or .pth file, or hub:owner/name:file")
    hub = require("huggingface_hub", f"a file of the hub, {source},")
    try:
        return Path(hub.hf_hub_download(match[1], match[2]))
    except Exception as error:  # the network and the hub fail in many ways
        raise InputError(f"cannot get {match[2]} of {match[1]} from the hub: {in_words(error)}") from error
