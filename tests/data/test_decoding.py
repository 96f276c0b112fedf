"""Any image file → plain pixels, or one error with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purrception.data import DataConfig, UnreadableImageError, decode_image, open_images
from tests.data.ugly import BROKEN, READABLE, SIZE, gradient, make_ugly_folder


def read(root: Path, name: str, channels: int = 3) -> np.ndarray:
    return np.asarray(decode_image(root / name, name, channels, smallest_side=4)).astype(int)


@pytest.fixture(scope="module")
def ugly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ugly_folder(tmp_path_factory.mktemp("images") / "ugly")


def test_the_ugly_folder_is_read_but_for_what_is_broken(ugly: Path) -> None:
    config = DataConfig(source="folder", root=str(ugly), image_size=16, channels=3, classes=0, test_fraction=0)
    source = open_images(config, "train")
    assert len(source) == READABLE + len(BROKEN)  # each once, in spite of the loops
    reasons, shapes = {}, set()
    for index in range(len(source)):
        try:
            shapes.add(source[index][0].shape)
        except UnreadableImageError as error:
            reasons[Path(error.name).name] = error.reason
    assert shapes == {(16, 16, 3)}
    assert reasons.keys() == BROKEN.keys()
    for name, reason in BROKEN.items():
        assert reason in reasons[name], reasons


@pytest.mark.parametrize("name", ["plain.png", "lossy.JPEG", "video.jpg", "nested/deeper/inside.png"])
def test_colours_stay(ugly: Path, name: str) -> None:
    assert np.abs(read(ugly, name) - np.asarray(gradient())).mean() < 6


@pytest.mark.parametrize("name", ["grey.png", "deep.png", "float.tiff", "print.jpg", "palette.gif", "bits.png"])
def test_brightness_stays_in_every_depth(ugly: Path, name: str) -> None:
    expected = np.asarray(gradient().convert("L")).astype(int)
    assert abs(read(ugly, name, channels=1).mean() - expected.mean()) < 6
    if name in ("grey.png", "deep.png", "float.tiff"):
        assert np.array_equal(read(ugly, name, channels=1), expected)


@pytest.mark.parametrize("name", ["transparent.png", "grey and transparent.webp"])
def test_transparency_shows_white_and_never_the_hidden_colour(ugly: Path, name: str) -> None:
    pixels = read(ugly, name)
    assert pixels[:, : SIZE // 2].max() == 0
    assert pixels[:, SIZE // 2 :].min() == 255
    config = DataConfig(source="folder", root=str(ugly), image_size=8, channels=3, classes=0, test_fraction=0)
    source = open_images(config, "train")
    small = next(source[i][0] for i in range(len(source)) if source.name(i).endswith(name)).astype(int)  # type: ignore[attr-defined]
    assert np.abs(small - small[..., :1]).max() == 0  # grey: no red has bled in while it was scaled


def test_half_transparent_is_half_white() -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 200, 128)).save(stream, "PNG")
    pixel = np.asarray(decode_image(stream.getvalue(), "half", 3))[0, 0]
    assert np.abs(pixel.astype(int) - [127, 127, 227]).max() <= 1


def test_an_image_is_turned_as_its_camera_was(ugly: Path) -> None:
    upright = np.asarray(gradient().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(read(ugly, "turned.jpg") - upright).mean() < 6


def test_a_large_image_is_halved_by_boxes_first() -> None:
    """One bright pixel in 4×4 leaves its sixteenth everywhere, where plain bicubic would alias."""
    from purrception.data.transforms import crop_to_square

    pixels = np.zeros((64, 96), dtype=np.uint8)
    pixels[::4, ::4] = 240
    small = np.asarray(crop_to_square(Image.fromarray(pixels), 16))
    assert small.shape == (16, 16)
    assert np.abs(small.astype(int) - 15).max() <= 1
