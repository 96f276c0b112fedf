"""Images: where they come from, as uint8 arrays with labels."""

from purrception.data.sources import SOURCES, DataConfig, ImageSource, Split, load_split, open_images
from purrception.data.transforms import array_to_pil, images_to_tensor, tensor_to_images

__all__ = [
    "SOURCES",
    "DataConfig",
    "ImageSource",
    "Split",
    "array_to_pil",
    "images_to_tensor",
    "load_split",
    "open_images",
    "tensor_to_images",
]
