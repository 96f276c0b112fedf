"""Images → features: streamed, cached, and robust against what folders hold."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from purrception.data import UnreadableImageError
from purrception.evaluation import FeatureStatistics
from purrception.evaluation.extractors import Extracted, ExtractorInputs, build_extractor
from purrception.evaluation.features import CHUNK, FeatureCache, extract_features
from purrception.evaluation.image_sets import FolderOfImages
from purrception.utils.errors import InputError

TEXTURE = build_extractor("texture", ExtractorInputs())


class Made:
    """Random images that say how many of them are alive."""

    class_names: tuple[str, ...] = ("a", "b")
    grey = True

    def __init__(self, count: int) -> None:
        self.count, self.most, self.alive = count, 0, 0

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"made {index}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int] | UnreadableImageError]:
        made = [np.random.default_rng(row).integers(0, 256, (8, 8, 1), dtype=np.uint8) for row in rows]
        self.alive += len(made)
        self.most = max(self.most, self.alive)
        for image in made:
            weakref.finalize(image, self._forgotten)
        return [(image, row % 2) for row, image in zip(rows, made, strict=True)]

    def _forgotten(self) -> None:
        self.alive -= 1


def save_images(folder: Path, count: int, size: int = 12) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number:03d}.png")


def test_images_are_forgotten_as_they_are_read() -> None:
    few, many = Made(2 * CHUNK), Made(6 * CHUNK + 5)
    for images in (few, many):
        gc.collect()
        found = extract_features(images, TEXTURE)
        assert found.count == images.count
    assert many.most == few.most <= 2 * CHUNK
    assert found.features is not None
    assert found.labels is not None
    assert found.labels[:4].tolist() == [0, 1, 0, 1]
    whole = FeatureStatistics.of(found.features)
    torch.testing.assert_close(found.statistics.covariance, whole.covariance, rtol=1e-10, atol=1e-12)


class Counted:
    """Texture that counts how often it is asked, and may answer nonsense."""

    name, fingerprint, channels, any_size = "counted", "0" * 64, 1, False

    def __init__(self, wrong: int = -1) -> None:
        self.asked, self.wrong = 0, wrong

    def __call__(self, images: Tensor) -> Extracted:
        features = images.flatten(1)[:, :5].clone()
        if self.wrong >= 0:
            features[self.wrong, 2] = torch.inf
        self.asked += 1
        return Extracted(features)


def test_features_come_from_the_cache_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    cache, images = FeatureCache(str(tmp_path / "cache")), Made(CHUNK + 9)
    first, second, third = Counted(), Counted(), Counted()
    fresh = extract_features(images, first, cache)
    cached = extract_features(images, second, cache)
    assert (first.asked, second.asked) == (5, 0)
    assert fresh.content == cached.content
    assert torch.equal(fresh.statistics.covariance, cached.statistics.covariance)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:20])
    extract_features(images, third, cache)
    assert third.asked in (1, 4)  # the chunk whose file is damaged
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_an_image_with_features_that_are_not_finite_is_named(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 9)
    with pytest.raises(InputError, match=r"images/007.png has features that are not finite"):
        extract_features(FolderOfImages(tmp_path / "images"), Counted(wrong=7))


def test_a_corrupt_image_is_named_and_counted_or_stops_a_strict_evaluation(tmp_path: Path) -> None:
    save_images(tmp_path / "images", 9)
    whole = extract_features(FolderOfImages(tmp_path / "images"), TEXTURE)
    (tmp_path / "images" / "004.png").write_bytes((tmp_path / "images" / "004.png").read_bytes()[:40])
    found = extract_features(FolderOfImages(tmp_path / "images"), TEXTURE)
    assert found.count == 8
    assert [Path(one.name).name for one in found.skipped] == ["004.png"]
    assert found.rows is not None
    assert found.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert found.content != whole.content
    with pytest.raises(InputError, match=r"004.png"):
        extract_features(FolderOfImages(tmp_path / "images"), TEXTURE, strict=True)


def test_several_sizes_and_too_few_images_are_refused(tmp_path: Path) -> None:
    save_images(tmp_path / "a", 5)
    save_images(tmp_path / "a" / "more", 1)  # a class folder beside loose images
    with pytest.raises(InputError, match="class folders"):
        FolderOfImages(tmp_path / "a")
    save_images(tmp_path / "b", 5)
    Image.new("L", (12, 14)).save(tmp_path / "b" / "zzz.png")
    with pytest.raises(InputError, match=r"000.png has 12×12 pixels, .*zzz.png has 12×14"):
        extract_features(FolderOfImages(tmp_path / "b"), TEXTURE)
    save_images(tmp_path / "c", 1)
    with pytest.raises(InputError, match="at least 2 images; given 1"):
        extract_features(FolderOfImages(tmp_path / "c"), TEXTURE)


def test_a_folder_is_read_as_it_is_grey_or_in_colours(tmp_path: Path) -> None:
    save_images(tmp_path / "grey" / "cat", 3)
    save_images(tmp_path / "grey" / "dog", 2)
    grey = FolderOfImages(tmp_path / "grey")
    assert (grey.grey, grey.class_names, len(grey)) == (True, ("cat", "dog"), 5)
    image, label = grey.read(range(4, 5))[0]  # type: ignore[misc]
    assert image.shape == (12, 12, 3)
    assert label == 1
    save_images(tmp_path / "colour", 2)
    Image.new("RGB", (12, 12), "red").save(tmp_path / "colour" / "red.png")
    assert not FolderOfImages(tmp_path / "colour").grey


def test_kept_features_are_of_every_class() -> None:
    found = extract_features(Made(120), Counted(), keep=60)  # two classes, which take turns
    assert found.labels is not None
    assert 20 < int(found.labels.sum()) < 40
