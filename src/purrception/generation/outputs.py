"""What a pipeline returns."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from diffusers.utils import BaseOutput
from torch import Tensor

from purrception.data import array_to_pil
from purrception.utils.visualisation import class_columns, heat_map, tile_images

OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUT_TYPES = get_args(OutputType)
LARGEST_DISPLAY = 64
"""The most images that a notebook shows."""
DISPLAYED_SIDE = 64
"""Images smaller than this many pixels are shown enlarged, by a whole factor."""


@dataclass
class PurrceptionOutput(BaseOutput):
    """Images with their codes, their uncertainty and their cost. In a notebook it shows as a picture."""

    images: Any
    """A list of PIL images; or, as the output type asks, float32 ``[B, H, W, C]`` in [0, 1] (``np``), a tensor
    ``[B, C, H, W]`` of the same (``pt``), or embeddings of the codes ``[B, D, h, w]`` (``latent``)."""
    indices: Tensor
    """Codes of the images, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the last posterior in nats, float32 ``[B, h, w]``; ``None`` without a posterior."""
    nfe: int
    """Network evaluations per image."""
    labels: list[int]
    """Class labels of the images; the number of classes stands for the null class."""
    path_entropy: Tensor | None = None
    """Entropy of the posterior in nats, averaged over the path from noise to data, float32 ``[B, h, w]``: which
    tokens stayed undecided long. Unlike the last entropy it depends little on the number of steps."""

    def _repr_png_(self) -> bytes | None:
        """The images as one sheet and, right of it, their path entropy from black (0) to the brightest token."""
        if not isinstance(self.images, list):
            return None
        shown = [np.asarray(image.convert("RGB")) for image in self.images[:LARGEST_DISPLAY]]
        scale = max(1, DISPLAYED_SIDE // min(shown[0].shape[:2]))
        columns = class_columns(self.labels[: len(shown)])
        sheets = [tile_images(np.stack(shown), columns, scale)]
        if self.path_entropy is not None:
            size, brightest = self.images[0].size, float(self.path_entropy.max())
            maps = [heat_map(values, brightest, size) for values in self.path_entropy[: len(shown)].numpy()]
            sheets.append(tile_images(np.stack([np.asarray(one) for one in maps]), columns, scale))
        gap = np.full((sheets[0].shape[0], 16, 3), 255, np.uint8)
        pieces: list[Any] = [piece for sheet in sheets for piece in (gap, sheet)][1:]
        stream = io.BytesIO()
        array_to_pil(np.concatenate(pieces, axis=1)).save(stream, format="PNG")
        return stream.getvalue()
