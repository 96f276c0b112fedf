"""DINOv2's features (arXiv 2304.07193); a Fréchet distance in them follows people's eyes (arXiv 2306.04675)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.evaluation.extractors.base import Extracted
from purrception.storage import plain_reason
from purrception.storage.finite import require_finite
from purrception.storage.names import HUB_PREFIX
from purrception.tokenizers import fingerprint
from purrception.utils.errors import InputError
from purrception.utils.packages import require

DEFAULT = "hub:facebook/dinov2-large"
SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Extractor:
    """The class token after the last normalisation; images are resized to 224×224 pixels, bicubic."""

    name, channels, any_size = "dinov2", 3, True

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), device
        self.fingerprint = hashlib.sha256(f"dinov2 {fingerprint(network)} {SIDE} bicubic".encode()).hexdigest()

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1], grey or RGB → features."""
        mean, deviation = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
        colours = images.to(self.device).float().expand(-1, 3, -1, -1) / 2 + 0.5
        resized = F.interpolate(colours, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
        return Extracted(self.network((resized.clamp(0, 1) - mean) / deviation).pooler_output)


def open_dinov2(weights: str, device: str = "cpu") -> Dinov2Extractor:
    """DINOv2 from a local folder or, as ``hub:owner/name``, from the Hugging Face hub; by default the large one.

    Raises:
        InputError: ``transformers`` is missing, or the weights cannot be had.
    """
    weights = weights or DEFAULT
    advice = "give a folder that transformers saved, or hub:owner/name, with --weights"
    if not weights.startswith(HUB_PREFIX) and not Path(weights).is_dir():
        raise InputError(f"no DINOv2 at {weights}: {advice}")
    transformers = require("transformers", "--features dinov2")
    try:
        network = transformers.Dinov2Model.from_pretrained(weights.removeprefix(HUB_PREFIX))
    except (OSError, ValueError) as error:
        raise InputError(f"no DINOv2 at {weights}: {advice}; {plain_reason(error)}") from error
    require_finite(network.state_dict(), weights)
    return Dinov2Extractor(network, device)
