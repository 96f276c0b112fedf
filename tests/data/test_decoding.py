"""Any image file → plain pixels, or one error with the reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purrception.data import DataConfig, UnreadableImageError, decode_image, open_images
from tests.data.unusual_images import BROKEN, READABLE, SIZE, gradient, make_unusual_images


def read(root: Path, name: str, channels: int = 3) -> np.ndarray:
    return np.asarray(decode_image(root / name, name, channels, smallest_side=4)).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_unusual_images(tmp_path_factory.mktemp("images") / "unusual")


def test_unusual_images_are_read_and_broken_ones_named(folder: Path) -> None:
    config = DataConfig(source="folder", root=str(folder), image_size=16, channels=3, classes=0, test_fraction=0)
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
def test_colours_stay(folder: Path, name: str) -> None:
    assert np.abs(read(folder, name) - np.asarray(gradient())).mean() < 6


@pytest.mark.parametrize("name", ["grey.png", "deep.png", "float.tiff", "print.jpg", "palette.gif", "bits.png"])
def test_brightness_stays_in_every_depth(folder: Path, name: str) -> None:
    expected = np.asarray(gradient().convert("L")).astype(int)
    assert abs(read(folder, name, channels=1).mean() - expected.mean()) < 6
    if name in ("grey.png", "deep.png", "float.tiff"):
        assert np.array_equal(read(folder, name, channels=1), expected)


@pytest.mark.parametrize("name", ["transparent.png", "grey and transparent.webp"])
def test_transparency_shows_white_and_never_the_hidden_colour(folder: Path, name: str) -> None:
    pixels = read(folder, name)
    assert pixels[:, : SIZE // 2].max() == 0
    assert pixels[:, SIZE // 2 :].min() == 255
    config = DataConfig(source="folder", root=str(folder), image_size=8, channels=3, classes=0, test_fraction=0)
    source = open_images(config, "train")
    small = next(source[i][0] for i in range(len(source)) if source.name(i).endswith(name)).astype(int)  # type: ignore[attr-defined]
    assert np.abs(small - small[..., :1]).max() == 0  # grey: no red has bled in while it was scaled


def test_half_transparent_is_half_white() -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 200, 128)).save(stream, "PNG")
    pixel = np.asarray(decode_image(stream.getvalue(), "half", 3))[0, 0]
    assert np.abs(pixel.astype(int) - [127, 127, 227]).max() <= 1


def test_an_image_is_turned_as_its_camera_was(folder: Path) -> None:
    upright = np.asarray(gradient().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(read(folder, "turned.jpg") - upright).mean() < 6


def test_a_large_image_is_halved_by_boxes_first() -> None:
    """One bright pixel in 4×4 leaves its sixteenth everywhere, where plain bicubic would alias."""
    from purrception.data.transforms import crop_to_square

    pixels = np.zeros((64, 96), dtype=np.uint8)
    pixels[::4, ::4] = 240
    small = np.asarray(crop_to_square(Image.fromarray(pixels), 16))
    assert small.shape == (16, 16)
    assert np.abs(small.astype(int) - 15).max() <= 1


def tiff(values: np.ndarray, kind: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF of one strip; ``kind`` 1: unsigned, 2: signed, 3: floats."""
    height, width = values.shape
    bits = values.dtype.itemsize * 8
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    entries |= {279: values.nbytes, 339: kind}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II" + struct.pack("<HIH", 42, 8, len(entries)) + directory + bytes(4) + values.tobytes()


def pgm(most: int, values: list[int]) -> bytes:
    return (
        f"P5 {len(values)} 1 {most}\n".encode() + np.asarray(values, dtype=">u2" if most > 255 else "u1").tobytes()
    )


@pytest.mark.parametrize(
    ("content", "levels"),
    [
        (pgm(65535, [0, 200, 65535]), [0, 1, 255]),
        (pgm(65535, [0, 200]), [0, 1]),
        (pgm(1000, [0, 500, 1000]), [0, 128, 255]),
        (pgm(100, [0, 100]), [0, 255]),
        (tiff(np.asarray([[0, 200, 257]], dtype="<u2")), [0, 1, 1]),
        (tiff(np.asarray([[0, 65535]], dtype="<u2"), photometric=0), [255, 0]),
        (tiff(np.asarray([[0, 0.5, 1.0]], dtype="<f4"), kind=3), [0, 128, 255]),
        (tiff(np.asarray([[0, 0.1]], dtype="<f4"), kind=3), [0, 26]),
        (tiff(np.asarray([[0, 0.1]], dtype="<f4"), kind=3, photometric=0), [255, 230]),
    ],
)
def test_white_is_what_the_format_declares(content: bytes, levels: list[int]) -> None:
    """By the netpbm and TIFF rules: a sample divided by its declared maximum."""
    made = np.asarray(decode_image(content, "it", channels=1))
    assert np.abs(made[0].astype(int) - levels).max() <= 1
    assert made[0][0] == levels[0]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([[0, 1.02]], ("<f4", 3), "values from 0 to 1.02"),
        ([[-1, 1]], ("<f4", 3), "values from -1 to 1"),
        ([[0, float("nan")]], ("<f4", 3), "values from nan"),
        ([[-5, 200]], ("<i2", 2), "signed"),
        ([[5, 200]], ("<i1", 2), "signed"),
        ([[5, 200]], ("<i4", 2), "signed"),
        ([[5, 200]], ("<u4", 1), "32 bits"),
    ],
)
def test_brightness_that_is_not_declared_is_refused_with_the_reason(
    values: list, kind: tuple[str, int], reason: str
) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(tiff(np.asarray(values).astype(kind[0]), kind[1]), "it", channels=1)
