"""Pictures that visitors bring, and what they paint on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from purrception.generation.image_processor import ImageProcessor, read_picture
from purrception.studio.session import display
from purrception.utils.errors import InputError

PAINTING_SIDE = 384


def take_picture(path: Any, processor: ImageProcessor, folder: Path) -> Image.Image:
    """An uploaded file as the model sees it: its centre square, at the model's size.

    Args:
        path: where gradio put it.
        processor: that of the model.
        folder: below which gradio puts uploads; nothing else is opened.

    Raises:
        InputError: nothing was uploaded, or it is no ordinary picture; see :func:`read_picture`.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise InputError("no picture came: choose a file")
    if folder.resolve() not in Path(path).resolve().parents:
        raise InputError("a picture is a file that you upload, not a path on this machine")
    return processor.preprocess(read_picture(path, processor.channels))


def editor_value(picture: Image.Image) -> dict[str, Any]:
    """A picture enlarged for painting, as gradio's editor takes it."""
    return {"background": np.asarray(display(picture, PAINTING_SIDE)), "layers": [], "composite": None}


def painted_pixels(value: Any, picture: Image.Image) -> np.ndarray:
    """Where somebody painted, as bool ``[H, W]`` of the picture: wherever a stroke covers a pixel's middle.

    Args:
        value: of gradio's editor.
        picture: what the editor shows, at the model's size.

    Raises:
        InputError: nothing was painted.
    """
    layers = [np.asarray(layer) for layer in (value or {}).get("layers") or []]
    layers = [layer for layer in layers if layer.ndim == 3 and layer.shape[-1] == 4 and layer[..., 3].any()]
    if not layers:
        raise InputError("nothing is painted: paint over what may change, then repaint")
    alpha = np.maximum.reduce([layer[..., 3] for layer in layers])
    covered = Image.fromarray(alpha).resize(picture.size, Image.Resampling.BOX)
    mask = np.asarray(covered) >= 128
    if not mask.any():
        raise InputError("the painted spot is smaller than a pixel of the picture: paint more")
    return mask
