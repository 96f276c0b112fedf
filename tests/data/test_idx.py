"""IDX files: what is read, what is refused, and MNIST's relatives."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from purrception.data import DataConfig, Survey, find_source, name_source, open_images
from purrception.data.idx import read_idx
from purrception.data.views import Views
from purrception.utils.errors import InputError
from tests.data.idx_files import idx_bytes, write_idx_set

CONFIG = DataConfig(source="idx", image_size=32, channels=1, enlarge=False)


def opened(root: Path, split: str = "train", **settings: object):
    return open_images(replace(CONFIG, root=str(root), **settings), split)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_keep_their_pixels_amid_black_and_their_own_test_split(tmp_path: Path, suffix: str) -> None:
    pixels, labels = write_idx_set(tmp_path, train=12, test=5, suffix=suffix)
    for split in ("train", "test"):
        source = opened(tmp_path, split)
        assert len(source) == len(pixels[split])
        for index in range(len(source)):
            image, label = source[index]
            assert label == labels[split][index]
            np.testing.assert_array_equal(image[2:30, 2:30, 0], pixels[split][index])
            assert image.sum() == pixels[split][index].sum()  # nothing but black around them
    assert source.class_names == ("0", "1", "2")
    assert opened(tmp_path).listing != source.listing
    assert opened(tmp_path).listing == opened(tmp_path).listing


def test_the_name_of_an_image_is_its_file_and_row(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    assert opened(tmp_path, "test").name(3) == "t10k-images-idx3-ubyte[3]"


def test_without_a_test_file_a_share_is_held_out(tmp_path: Path) -> None:
    write_idx_set(tmp_path, train=200, test=0)
    train, test = (opened(tmp_path, split, test_fraction=0.2) for split in ("train", "test"))
    assert len(train) + len(test) == 200
    assert 20 < len(test) < 60
    names = [{source.name(index) for index in range(len(source))} for source in (train, test)]
    assert not names[0] & names[1]


def test_enlarged_unless_told_otherwise_and_never_padded_when_too_large(tmp_path: Path) -> None:
    pixels, _ = write_idx_set(tmp_path)
    pixels["train"][0][:] = 255
    write_idx_set(tmp_path, pixels=pixels)
    assert opened(tmp_path, enlarge=True)[0][0].min() == 255
    assert opened(tmp_path)[0][0].min() == 0
    assert opened(tmp_path, image_size=16)[0][0].min() == 255
    views = Views(crops=2, size=32).read(opened(tmp_path), 0)[0]
    assert views.shape == (2, 32, 32, 1)
    assert views.min() == 0


def test_classes_take_their_names_from_the_settings(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    assert opened(tmp_path, class_names=("shoe", "hat", "bag")).class_names == ("shoe", "hat", "bag")
    assert opened(tmp_path, classes=0, class_names=("shoe", "hat", "bag")).class_names == ()
    with pytest.raises(InputError, match=r"gives 2 names; .* have 3 classes: 0, 1, 2"):
        opened(tmp_path, class_names=("shoe", "hat"))
    with pytest.raises(InputError, match=r"holds 3 classes; data.classes says 4"):
        opened(tmp_path, classes=4)


def test_images_alone_have_no_classes(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    assert opened(tmp_path).class_names == ()
    assert opened(tmp_path)[0][1] == 0
    with pytest.raises(InputError, match=r"holds 0 classes; data.classes says 3"):
        opened(tmp_path, classes=3)


def test_emnist_is_set_upright_and_named_by_its_mapping(tmp_path: Path) -> None:
    pixels, labels = write_idx_set(tmp_path, prefix="emnist-letters-", first_label=1)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n", encoding="utf-8")
    source = opened(tmp_path)
    assert source.class_names == ("Aa", "Bb", "Cc")
    image, label = source[4]
    np.testing.assert_array_equal(image[2:30, 2:30, 0], pixels["train"][4].T)
    assert label == labels["train"][4] - 1
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65\n2 66\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds the label 3, which its mapping.txt does not name"):
        opened(tmp_path)


def test_one_of_several_sets_is_chosen_by_its_name(tmp_path: Path) -> None:
    for prefix in ("emnist-letters-", "emnist-digits-"):
        write_idx_set(tmp_path, prefix=prefix, train=4 + len(prefix))
    with pytest.raises(InputError, match=r"holds 2 sets of images: give one .*emnist-digits or .*emnist-letters"):
        opened(tmp_path)
    assert len(opened(tmp_path / "emnist-digits")) == 18
    assert opened(tmp_path / "emnist-digits", "test").name(0).startswith("emnist-digits-t10k-images")
    with pytest.raises(InputError, match="holds no IDX file of training images"):
        opened(tmp_path / "emnist-words")


HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "begins with 89 50 4e 47; unsigned bytes in 3 dimensions begin with"),
        (bytes([0, 0, 0x0D, 3]) + HEADER[4:] + bytes(8), "begins with 00 00 0d 03"),
        (bytes([0, 0, 8, 1]) + HEADER[4:] + bytes(8), "begins with 00 00 08 01"),
        (HEADER[:9], "ends within its header"),
        (HEADER + bytes(7), "announces 2×2×2 = 8 bytes, and it holds only 7"),
        (HEADER + bytes(9), "announces 2×2×2 = 8 bytes, and it holds more"),
        (HEADER[:4] + b"\xff" * 12, "at most 2147483648 are accepted"),
        (HEADER[:4] + bytes(12), "at most 2147483648 are accepted"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    for name, stored in (("a", content), ("a.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(InputError, match=message) as caught:
            read_idx(tmp_path / name, 3)
        assert str(tmp_path / name) in str(caught.value)


def test_a_truncated_gzip_and_wrong_labels_are_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path, suffix=".gz")
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz is not an IDX file that can be read"):
        opened(tmp_path)
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(3, np.uint8))))
    with pytest.raises(InputError, match=r"holds 3 labels, and train-images-idx3-ubyte.gz 12 images"):
        opened(tmp_path)


def test_a_missing_folder_says_where_to_get_one(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere" / "at all", Path()):
        with pytest.raises(InputError, match=r"no IDX files|no IDX file of training images"):
            opened(root)
    with pytest.raises(InputError, match="dataset-fashion-mnist installs Fashion-MNIST"):
        opened(tmp_path / "nowhere" / "at all")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_idx_set(tmp_path, train=6)
    assert len(opened(tmp_path)) == 6
    write_idx_set(tmp_path, train=7)
    assert len(opened(tmp_path)) == 7


def test_a_folder_of_idx_files_is_recognised(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    assert find_source(str(tmp_path)) == ("idx", str(tmp_path))
    assert name_source(replace(CONFIG, root=str(tmp_path))) == str(tmp_path)
    assert find_source(str(tmp_path.parent)) == ("folder", str(tmp_path.parent))
    survey = Survey.of(DataConfig(source="idx", root=str(tmp_path)))
    assert (survey.images, survey.classes, survey.short_side, survey.grey) == (12, 3, 28, True)
