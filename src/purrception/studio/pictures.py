"""Pictures that visitors upload, and the masks that they paint."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from purrception.generation.image_processor import ImageProcessor, read_picture
from purrception.studio.session import display
from purrception.utils.errors import InputError
from purrception.utils.visualisation import heat_map

PAINTING_SIDE = 384


def open_upload(path: Any, processor: ImageProcessor, folder: Path) -> Image.Image:
    """Open an uploaded picture, in the colours of the model's images.

    Args:
        path: where gradio has put it.
        processor: the image processor of the model.
        folder: the folder of uploads; files elsewhere are not opened.

    Raises:
        InputError: nothing was uploaded, or not an ordinary picture; see :func:`read_picture`.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise InputError("no picture was uploaded: choose a file")
    if folder.resolve() not in Path(path).resolve().parents:
        raise InputError("a picture is a file that you upload, not a path on this machine")
    return read_picture(path, processor.channels)


def data_address(png: bytes) -> str:
    """A PNG as an address that holds it, for HTML and Markdown."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def embedded(image: Image.Image) -> str:
    """An image as an address that holds it; see :func:`data_address`."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return data_address(file.getvalue())


def colour_scale(brightest: float) -> str:
    """The scale of a map of entropies, as HTML: which colour means how many nats.

    Args:
        brightest: the entropy of the brightest colour, in nats.
    """
    colours = embedded(heat_map(np.linspace(0, 1, 256)[None], 1, (256, 1)))
    return (
        f"<div class='scale'><span>0</span><img src='{colours}' alt='from dark to bright'>"
        f"<span>{brightest:.2f} nats</span></div><p class='quiet'>Entropy of the posterior of each token.</p>"
    )


def editor_value(picture: Image.Image) -> dict[str, Any]:
    """A picture, enlarged for painting, as the value of gradio's editor."""
    return {"background": np.asarray(display(picture, PAINTING_SIDE)), "layers": [], "composite": None}


def painted_pixels(value: Any, picture: Image.Image) -> np.ndarray:
    """The painted pixels of a picture, bool ``[H, W]``: those that strokes cover by half or more.

    Args:
        value: the value of gradio's editor.
        picture: the picture in the editor, at the model's size.

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
