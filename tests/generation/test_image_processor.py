"""Pictures that people bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purrception.generation.image_processor import ImageProcessor, read_picture
from purrception.utils.errors import InputError

GREY = ImageProcessor(16, 16, 1)


def make_bad_pictures(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are refused, by kind: (path, what is said)."""
    cases = {
        "text": (folder / "text.png", "is not a picture"),
        "empty": (folder / "empty.png", "zero bytes"),
        "huge": (folder / "huge.png", "100 megapixels"),
        "animated": (folder / "animated.gif", "animation of 3 frames"),
        "cmyk": (folder / "cmyk.jpg", "print colours"),
        "folder": (folder / "folder.png", "is not a file"),
        "cut": (folder / "cut.png", "cut.png"),
    }
    cases["text"][0].write_text("no picture")
    cases["empty"][0].write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(cases["huge"][0])
    frames = [Image.new("L", (8, 8), value) for value in (0, 90, 200)]
    frames[0].save(cases["animated"][0], save_all=True, append_images=frames[1:])
    Image.new("CMYK", (8, 8)).save(cases["cmyk"][0])
    cases["folder"][0].mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(cases["cut"][0])
    whole = cases["cut"][0].read_bytes()
    cases["cut"][0].write_bytes(whole[: len(whole) // 2])
    return cases


def test_what_is_no_ordinary_picture_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for path, message in make_bad_pictures(tmp_path).values():
        with pytest.raises(InputError, match=message):
            read_picture(path)


def test_a_picture_comes_as_viewers_show_it(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    picture.save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert read_picture(tmp_path / "clear.png", 1).mode == "L"


@pytest.mark.parametrize("size", [(16, 16), (37, 37), (8, 8), (50, 23), (9, 40)])
def test_every_pixel_that_the_paint_touches_is_free(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    picture = Image.new("L", size)
    for _ in range(5):
        mask = rng.random((size[1], size[0])) < 0.03
        side = min(size)
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        square = mask[top : top + side, left : left + side]
        if not square.any():
            continue
        touched = GREY.preprocess_mask(mask, picture)
        expected = np.zeros((16, 16), bool)
        for row, column in np.argwhere(square):  # a pixel of the picture covers these of the canvas
            first_row, last_row = row * 16 / side, (row + 1) * 16 / side
            first_column, last_column = column * 16 / side, (column + 1) * 16 / side
            rows = slice(int(first_row + 1e-9), int(np.ceil(last_row - 1e-9)))
            columns = slice(int(first_column + 1e-9), int(np.ceil(last_column - 1e-9)))
            expected[rows, columns] = True
        assert np.array_equal(touched, expected)


def test_a_grey_mask_counts_where_it_is_bright() -> None:
    mask = Image.new("L", (16, 16), 127)
    mask.putpixel((3, 5), 128)
    assert np.argwhere(GREY.preprocess_mask(mask, Image.new("L", (16, 16)))).tolist() == [[5, 3]]


def test_masks_and_sizes_that_do_not_fit_are_refused() -> None:
    picture = Image.new("RGB", (40, 20))
    with pytest.raises(InputError, match="given 20×20 and 40×20 pixels"):
        GREY.preprocess_mask(np.ones((20, 20), bool), picture)
    outside = np.zeros((20, 40), bool)
    outside[:, :5] = True
    with pytest.raises(InputError, match="nothing is painted"):
        GREY.preprocess_mask(outside, picture)
    assert GREY.preprocess(picture).size == (16, 16)
    with pytest.raises(InputError, match="32×16 pixels, and the picture has 40×20"):
        ImageProcessor(16, 32, 3).preprocess(picture)
