"""Digits, photographs and folders, through one interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from purrception.data import DataConfig, Split, images_to_tensor, open_images, spread_rows, tensor_to_images
from purrception.data.builtin import PhotosImages
from purrception.data.config import SOURCE_NAMES
from purrception.data.sources import SOURCES
from purrception.utils.errors import InputError


def fill_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 20) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_digits_split_is_fixed_disjoint_and_complete() -> None:
    config = DataConfig()
    train, test = open_images(config, "train"), open_images(config, "test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.class_names == tuple("0123456789")
    for label in range(10):
        counts = [sum(int(source[i][1] == label) for i in range(len(source))) for source in (train, test)]
        assert counts[1] / sum(counts) == pytest.approx(0.2, abs=0.01)
    again = open_images(config, "test")
    assert all(np.array_equal(test[i][0], again[i][0]) for i in range(len(test)))


def test_digits_are_uint8_of_the_size_asked_for() -> None:
    image, label = open_images(replace(DataConfig(), image_size=32), "train")[5]
    assert image.shape == (32, 32, 1)
    assert image.dtype == np.uint8
    assert image.max() > 200
    assert 0 <= label <= 9


PHOTOS = DataConfig(source="photos", image_size=32, channels=3, test_fraction=0.3)


def covered(source: PhotosImages) -> np.ndarray:
    """bool [2, H, W]: the pixels of each photograph that some crop shows."""
    pixels = np.zeros((2, 427, 640), dtype=bool)
    for label, left, top in source.crops:
        assert 0 <= left <= 640 - source.window
        assert 0 <= top <= 427 - source.window
        pixels[label, top : top + source.window, left : left + source.window] = True
    return pixels


@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.4, 0.6])
def test_training_and_test_crops_of_photos_share_no_pixel(fraction: float) -> None:
    config = replace(PHOTOS, test_fraction=fraction)
    train, test = (covered(PhotosImages(config, split)) for split in ("train", "test"))
    assert not (train & test).any()
    for label in range(2):
        assert train[label].any()
        assert test[label].mean() == pytest.approx(fraction, abs=0.03)


def test_photos_are_two_classes_of_crops_always_the_same() -> None:
    train, test = open_images(PHOTOS, "train"), open_images(PHOTOS, "test")
    assert (len(train), len(test)) == (8056, 1824)
    assert train.class_names == ("china", "flower")
    for source in (train, test):
        assert sum(source[i][1] for i in range(len(source))) * 2 == len(source)
    again = open_images(PHOTOS, "test")
    assert all(np.array_equal(test[i][0], again[i][0]) for i in range(len(test)))


def test_a_photo_crop_is_the_window_that_its_box_names() -> None:
    source = PhotosImages(replace(PHOTOS, image_size=48), "test")
    image, label = source[400]
    name, (_, left, top) = source.class_names[label], source.crops[400]
    assert image.dtype == np.uint8
    assert np.array_equal(image, load_sample_image(f"{name}.jpg")[top : top + 48, left : left + 48])
    small, _ = PhotosImages(PHOTOS, "test")[400]
    assert small.shape == (32, 32, 3)


def test_photos_may_hold_nothing_out_but_not_too_little_nor_too_much() -> None:
    whole = replace(PHOTOS, test_fraction=0.0)
    assert len(open_images(whole, "test")) == 0
    assert len(open_images(whole, "train")) == 2 * 76 * 119
    for fraction in (0.05, 0.15, 0.9):
        split: Split = "test" if fraction < 0.5 else "train"
        with pytest.raises(InputError, match=r"from 0\.25 to 0\.6"):
            open_images(replace(PHOTOS, test_fraction=fraction), split)


def test_nothing_may_be_held_out() -> None:
    config = replace(DataConfig(), test_fraction=0.0)
    assert (len(open_images(config, "train")), len(open_images(config, "test"))) == (1797, 0)


def test_folder_with_classes_and_without(tmp_path: Path) -> None:
    fill_folder(tmp_path / "classes")
    config = DataConfig(source="folder", root=str(tmp_path / "classes"), image_size=16, channels=3)
    train, test = open_images(config, "train"), open_images(config, "test")
    assert train.class_names == ("cat", "dog")
    assert len(train) + len(test) == 40
    assert 0 < len(test) < 20
    assert train[0][0].shape == (16, 16, 3)
    assert {train[i][1] for i in range(len(train))} == {0, 1}
    flat = replace(config, root=str(tmp_path / "classes" / "cat"))
    assert open_images(flat, "train").class_names == ()


def test_adding_images_moves_none_between_the_splits(tmp_path: Path) -> None:
    config = DataConfig(source="folder", root=str(fill_folder(tmp_path)), channels=3)

    def names() -> set[bytes]:
        source = open_images(config, "test")
        return {source[i][0].tobytes() for i in range(len(source))}

    before = names()
    fill_folder(tmp_path, ("emu",))
    assert before <= names()


@pytest.mark.parametrize("layout", ["missing", "empty", "mixed", "file"])
def test_folders_that_hold_no_clear_set_are_refused(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "images"
    if layout == "file":
        root.write_text("no folder")
    elif layout != "missing":
        root.mkdir()
    if layout == "mixed":
        fill_folder(root)
        Image.new("RGB", (9, 9)).save(root / "loose.png")
    with pytest.raises(InputError, match=r"no folder of images|holds no images|loose images"):
        open_images(DataConfig(source="folder", root=str(root)), "train")


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n cut"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    source = open_images(DataConfig(source="folder", root=str(tmp_path), test_fraction=0.0), "train")
    with pytest.raises(InputError, match=r"cannot read the image .*broken\.png"):
        source[0]


def test_an_image_is_read_as_its_camera_held_it(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255  # white above; turned by 180° in the file's orientation, white below
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    config = DataConfig(source="folder", root=str(tmp_path), channels=3, test_fraction=0.0)
    image, _ = open_images(config, "train")[0]
    assert image[:6].max() < 30
    assert image[-6:].min() > 220


def test_arrays_and_tensors_round_trip() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    tensor = images_to_tensor(list(pixels))
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert np.array_equal(tensor_to_images(tensor), pixels)
    with pytest.raises(InputError, match="share a shape"):
        images_to_tensor([pixels[0], pixels[0, :8]])


def test_every_source_that_a_configuration_accepts_can_be_opened() -> None:
    assert set(SOURCES) == set(SOURCE_NAMES)


def test_settings_that_no_source_serves_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'folder'"):
        DataConfig(source="foldr")
    with pytest.raises(InputError, match="channels"):
        DataConfig(channels=4)
    with pytest.raises(InputError, match="test_fraction"):
        DataConfig(test_fraction=1.0)


def test_spread_rows_keep_every_class_in_proportion_however_rows_are_ordered() -> None:
    rows = spread_rows(50_000, 10_000)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, spread_rows(50_000, 10_000))
    for classes in (10, 1000):
        for labels in (rows % classes, rows * classes // 50_000):  # taking turns, and class by class
            counts = np.bincount(labels, minlength=classes)
            spread = (10_000 / classes * 0.8) ** 0.5  # of a draw without replacement
            assert counts.min() > 0
            assert abs(counts - 10_000 / classes).max() < 4.5 * spread
            assert counts.std() < 1.5 * spread
    assert (spread_rows(10**9, 64) > 10**8).any()  # without a list of all
    assert spread_rows(3, 8).tolist() == [0, 1, 2]
    assert spread_rows(0, 8).tolist() == []
