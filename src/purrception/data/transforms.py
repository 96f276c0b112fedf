"""Conversions between PIL images, uint8 arrays ``[H, W, C]`` and float tensors ``[B, C, H, W]`` in [−1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from purrception.data.config import MODES, DataConfig
from purrception.utils.errors import InputError


def scale_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scale the short side to ``size`` pixels: by box filters while it is at least twice too large, then bicubic.

    This is the procedure of ADM (Dhariwal & Nichol, arXiv 2105.05233), whose reference statistics for
    ImageNet are the field's convention.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def crop_to_square(image: Image.Image, size: int, position: float = 0.5) -> Image.Image:
    """Scale the short side to ``size`` pixels and crop a square.

    Args:
        image: the image.
        size: side of the square in pixels.
        position: of the square along the long side, from 0 (left or top) to 1; by default the centre.
    """
    scaled = scale_short_side(image, size)
    left, top = (int((side - size) * position) for side in scaled.size)
    return scaled.crop((left, top, left + size, top + size))


def pad_if_small(image: Image.Image, config: DataConfig) -> Image.Image:
    """The image, or with ``config.enlarge`` off a smaller one amid a black square of ``config.image_size`` pixels.

    28 pixels, as MNIST has them, become 32 without a filter that blurs them.
    """
    size = config.image_size
    if config.enlarge or max(image.size) > size or image.size == (size, size):
        return image
    square = Image.new(image.mode, (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def pil_to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """The centre crop as uint8 ``[size, size, channels]``; channels is 1 (grey) or 3 (RGB)."""
    # A conversion copies the image even where it changes nothing.
    plain = image if image.mode == MODES[channels] else image.convert(MODES[channels])
    square = crop_to_square(plain, size)
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels)


def array_to_pil(array: np.ndarray) -> Image.Image:
    """uint8 ``[H, W, C]`` with C = 1 or 3 → a PIL image in mode L or RGB."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def images_to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 arrays ``[H, W, C]`` → float32 ``[B, C, H, W]`` in [−1, 1].

    Raises:
        InputError: the images differ in shape.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise InputError(f"images of one batch must share a shape; given {sorted(shapes)}")
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1.0


def tensor_to_bytes(tensor: Tensor, *, truncate: bool = False) -> Tensor:
    """float ``[B, C, H, W]`` → uint8 ``[B, H, W, C]`` on the same device, rounded or truncated; clips to [−1,
    1]."""
    scaled = (tensor.float().clamp(-1, 1) + 1.0) * 127.5
    levels = scaled if truncate else scaled.round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1)


def tensor_to_images(tensor: Tensor) -> np.ndarray:
    """float ``[B, C, H, W]`` → uint8 ``[B, H, W, C]`` in an array; values are clipped to [−1, 1]."""
    return tensor_to_bytes(tensor).cpu().numpy()
