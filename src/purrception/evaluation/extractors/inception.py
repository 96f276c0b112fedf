"""InceptionV3 with the weights that FID is defined by, in plain torch.

The network is that of the TensorFlow graph of 2015-12-05 (arXiv 1512.00567 as Szegedy and others released it),
which differs from later Inceptions: averages over 3×3 pixels leave the border out of their count, the last block
takes a maximum where the others average, and there are 1008 classes. Its weights for torch have gone around since
pytorch-fid; names of the parts below are those of that file, so that every tensor is accounted for by name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.evaluation.extractors.base import Extracted
from purrception.storage import sha256_of
from purrception.storage.foreign_weights import account_for, read_weights, renamed, tensors_in
from purrception.utils.errors import InputError

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_FROM = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
SIDE, CLASSES, FEATURES = 299, 1008, 2048
SPATIAL_CHANNELS = 7
"""Channels of the 1×1 branch of TensorFlow's block mixed_6, on 17×17 sites: 2023 features, as in ADM."""
ALSO_HASHED = "tensorflow resize, spatial features [17, 17, 7]"
"""What the features depend on besides the weights: a change here gives another fingerprint."""

_average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
_largest = nn.MaxPool2d(3, stride=1, padding=1)
_halved = nn.MaxPool2d(3, stride=2)


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self,
        narrow: int,
        wide: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: int | str = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(narrow, wide, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(wide, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, narrow, H, W]`` → ``[B, wide, H', W']``."""
        return F.relu(self.bn(self.conv(x)))


class Fine(nn.Module):
    """The blocks on 35×35 sites: 1×1, 5×5, two 3×3, pooling."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(width, 64, 1)
        self.branch5x5_1 = Convolution(width, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(width, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], dim=1)


class FineToMiddle(nn.Module):
    """From 35×35 sites to 17×17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(width, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(width, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halved(x)], dim=1)


class Middle(nn.Module):
    """The blocks on 17×17 sites, whose 7×7 convolutions are rows and columns in turn."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        width, out = 768, 192
        self.branch1x1 = Convolution(width, out, 1)
        self.branch7x7_1 = Convolution(width, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, (1, 7), padding="same")
        self.branch7x7_3 = Convolution(inner, out, (7, 1), padding="same")
        self.branch7x7dbl_1 = Convolution(width, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, (7, 1), padding="same")
        self.branch7x7dbl_3 = Convolution(inner, inner, (1, 7), padding="same")
        self.branch7x7dbl_4 = Convolution(inner, inner, (7, 1), padding="same")
        self.branch7x7dbl_5 = Convolution(inner, out, (1, 7), padding="same")
        self.branch_pool = Convolution(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], dim=1)


class MiddleToCoarse(nn.Module):
    """From 17×17 sites to 8×8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding="same")
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding="same")
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), _halved(x)], dim=1)


class Coarse(nn.Module):
    """The blocks on 8×8 sites; the two of them pool differently."""

    def __init__(self, width: int, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling
        self.branch1x1 = Convolution(width, 320, 1)
        self.branch3x3_1 = Convolution(width, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding="same")
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding="same")
        self.branch3x3dbl_1 = Convolution(width, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding="same")
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding="same")
        self.branch_pool = Convolution(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*parts, self.branch_pool(self.pooling(x))], dim=1)


class InceptionV3(nn.Module):
    """Images of 299×299 pixels → 2048 features, and what sFID and the Inception score need."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Fine(192, 32), Fine(256, 64), Fine(288, 64)
        self.Mixed_6a = FineToMiddle(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(Middle, (128, 160, 160, 192))
        self.Mixed_7a = MiddleToCoarse()
        self.Mixed_7b, self.Mixed_7c = Coarse(1280, _average), Coarse(FEATURES, _largest)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Extracted:
        """``[B, 3, 299, 299]`` in [−1, 1) as TensorFlow scales it → features, spatial features and logits.

        The logits come without the bias of the last layer, as in the original Inception score.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x))))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS]
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        features = self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))
        # Channels last, as TensorFlow flattens them: in any other order ADM's mu_s and sigma_s mean nothing.
        return Extracted(features, spatial.permute(0, 2, 3, 1).flatten(1), features @ self.fc.weight.T)


def resize_as_tensorflow(images: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear as TensorFlow 1's ``resize_bilinear`` does it: pixel i of the result lies at i · old/new.

    No half-pixel centres and no smoothing. FID's numbers hold for this resize alone (arXiv 2104.11222).

    Args:
        images: ``[B, C, H, W]``.
        side: of the result.
    """

    def weights(size: int) -> tuple[Tensor, Tensor, Tensor]:
        position = torch.arange(side, device=images.device, dtype=torch.float32) * (size / side)
        low = position.floor().long().clamp(max=size - 1)
        return low, (low + 1).clamp(max=size - 1), position - low

    top, bottom, down = weights(images.shape[2])
    left, right, across = weights(images.shape[3])
    upper, lower = images[:, :, top], images[:, :, bottom]
    upper = torch.lerp(upper[..., left], upper[..., right], across)
    lower = torch.lerp(lower[..., left], lower[..., right], across)
    return torch.lerp(upper, lower, down[:, None])


class InceptionExtractor:
    """Features of FID."""

    name, channels, any_size = "inception", 3, True

    def __init__(self, network: InceptionV3, weights_hash: str, device: str) -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), device
        self.fingerprint = hashlib.sha256(f"inception {weights_hash} {ALSO_HASHED}".encode()).hexdigest()

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1], grey or RGB → features."""
        levels = ((images.to(self.device).float() + 1) * 127.5).round()
        resized = resize_as_tensorflow(levels.expand(-1, 3, -1, -1))
        return self.network((resized - 128) / 128)


def open_inception(weights: str, device: str = "cpu") -> InceptionExtractor:
    """Inception with the weights of a file, every tensor accounted for.

    Raises:
        InputError: no file is given, or it holds other weights.
    """
    if not weights:
        raise InputError(
            f"features of Inception need FID's weights: download {WEIGHTS_FROM} and give the file with --weights "
            f"{WEIGHTS_FILE}; nothing is downloaded automatically"
        )
    tensors = tensors_in(read_weights(weights), ("state_dict",), weights)
    network = InceptionV3()
    state = network.state_dict()
    names = {name: name for name in state if not name.endswith("num_batches_tracked")}
    shapes = {name: state[name].shape for name in names}
    problem, _ = account_for(tensors, names, shapes, is_known=lambda name: name.endswith("num_batches_tracked"))
    if problem:
        raise InputError(f"{weights} is not FID's Inception, {Path(WEIGHTS_FILE).stem}: {problem}")
    network.load_state_dict(renamed(tensors, names, shapes, weights), strict=False)
    return InceptionExtractor(network, sha256_of(weights), device)
