"""What a pipeline gives back."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor


@dataclass
class PurrceptionOutput(BaseOutput):
    """Images and what the model thought while it made them."""

    images: list[Image.Image]
    """Decoded images."""
    indices: Tensor
    """Codes, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the last posterior in nats, float32 ``[B, h, w]``; none for an objective without one."""
    nfe: int
    """Network evaluations per image."""
    labels: list[int]
    """Under which they were made; the null class is the number of classes."""
