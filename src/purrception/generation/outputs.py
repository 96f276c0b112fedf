"""The output of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor


@dataclass
class PurrceptionOutput(BaseOutput):
    """Images with their codes, their uncertainty and their cost."""

    images: list[Image.Image]
    """The decoded images."""
    indices: Tensor
    """Codes of the images, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the last posterior in nats, float32 ``[B, h, w]``; ``None`` without a posterior."""
    nfe: int
    """Network evaluations per image."""
    labels: list[int]
    """Class labels of the images; the number of classes stands for the null class."""
