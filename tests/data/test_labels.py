"""One rule for labels: tars, hub data sets and metadata files say the same."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purrception.data import DataConfig, UnreadableImageError, open_images
from purrception.utils.errors import InputError

COUNT = 4


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8), level).save(stream, "PNG")
    return stream.getvalue()


def make_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def as_tar(root: Path, labels: Sequence[object]) -> DataConfig:
    members = {f"{number}.png": png(number) for number in range(len(labels))}
    members |= {f"{number}.json": json.dumps({"label": label}).encode() for number, label in enumerate(labels)}
    return DataConfig("webdataset", make_tar(root / "in.tar", members), test_fraction=0)


def as_metadata(root: Path, labels: Sequence[object]) -> DataConfig:
    for number in range(len(labels)):
        (root / f"{number}.png").write_bytes(png(number))
    rows = [{"file_name": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataConfig("folder", str(root), test_fraction=0)


def as_saved(root: Path, labels: Sequence[object]) -> DataConfig:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": png(number), "path": None} for number in range(len(labels))]
    made = datasets.Dataset.from_dict({"image": images, "label": list(labels)})
    made.cast_column("image", datasets.Image()).save_to_disk(root / "saved")
    return DataConfig("hub", str(root / "saved"), test_fraction=0)


def found(config: DataConfig) -> tuple[tuple[str, ...], list[int | str]]:
    """Class names, and the label of each image or why it has none."""
    source, labels = open_images(config, "train"), []
    for index in range(len(source)):
        try:
            labels.append(source[index][1])
        except UnreadableImageError as error:
            labels.append(error.reason)
    return source.class_names, labels


NONE = "it has no label, while others have one"
MAKERS = pytest.mark.parametrize("make", [as_tar, as_metadata, as_saved])


@MAKERS
@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([0, 1, 2, 1], "012", [0, 1, 2, 1]),
        ([0.0, 2.0, 1.0, 2.0], "012", [0, 2, 1, 2]),
        (["0", "2.0", "01", "2"], "012", [0, 2, 1, 2]),
        (["emu", "cat", "cat", "emu"], ("cat", "emu"), [1, 0, 0, 1]),
        ([1, -1, None, 0], "01", [1, NONE, NONE, 0]),
        ([None, "b", "", "a"], "ab", [NONE, 1, NONE, 0]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([None, None, None, None], (), [0, 0, 0, 0]),
    ],
)
def test_a_label_means_the_same_in_every_source(
    tmp_path: Path, make, labels: list, names: Sequence[str], numbers: list
) -> None:
    assert found(make(tmp_path, labels)) == (tuple(names), numbers)


@MAKERS
@pytest.mark.parametrize("labels", [[[1], [0]], [0.5, 1.0], [-2, 0], ["0.5", "1"], [0, 10**9]])
def test_what_is_no_label_is_refused_unless_labels_are_not_asked_for(tmp_path: Path, make, labels: list) -> None:
    config = make(tmp_path, labels)
    with pytest.raises(InputError, match=r"has the label|holds the label"):
        open_images(config, "train")
    unlabelled = DataConfig(config.source, config.root, classes=0, test_fraction=0)
    assert found(unlabelled) == ((), [0, 0])


@pytest.mark.parametrize("make", [as_tar, as_metadata])
def test_numbers_and_names_do_not_mix(tmp_path: Path, make) -> None:
    with pytest.raises(InputError, match=r"numbers, such as 0, and others such as 'cat'"):
        open_images(make(tmp_path, [0, "cat"]), "train")


@pytest.mark.parametrize("values", [("3", "1.0", "-1", "NA"), ("dog", "cat", "nan", "")])
def test_a_folder_reads_its_metadata_as_imagefolder_does(tmp_path: Path, values: tuple[str, ...]) -> None:
    """Held against the labels by hand, and, where ``datasets`` is installed, against its own reading."""
    for number in range(4):
        folder = tmp_path / ("a", "b")[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number * 50))
    rows = "".join(f"{'ab'[number % 2]}/{number}.png,{value}\n" for number, value in enumerate(values))
    (tmp_path / "metadata.csv").write_text("\ufefffile_name,label\n" + rows, encoding="utf-8")
    names, labels = found(DataConfig("folder", str(tmp_path), test_fraction=0))
    by_hand = {"3": (("0", "1", "2", "3"), [3, NONE, 1, NONE]), "dog": (("cat", "dog"), [1, NONE, 0, NONE])}
    assert (names, labels) == by_hand[values[0]]  # in the order of paths: a/0, a/2, b/1, b/3
    pytest.importorskip("datasets")
    hub_names, hub_labels = found(DataConfig("hub", str(tmp_path), test_fraction=0))
    assert (hub_names, [hub_labels[row] for row in (0, 2, 1, 3)]) == (names, labels)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "name,label\n0.png,1\n"}, "row 1 .* has no file_name"),
        ({"metadata.csv": "file_name,label\n../0.png,1\n"}, "lies outside its folder"),
        ({"metadata.csv": "file_name,label\n0.png,1\n0.png,2\n"}, "twice"),
        ({"metadata.jsonl": "{"}, "not metadata that can be read"),
        ({"metadata.jsonl": "", "metadata.csv": ""}, "keep only the one"),
        ({"metadata.parquet": ""}, "as hub:"),
        ({"metadata.csv": "file_name,text\na/0.png,a cat\n"}, "no column label, cls or class"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(png())
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_images(DataConfig("folder", str(tmp_path)), "train")
    open_images(DataConfig("folder", str(tmp_path), classes=0, test_fraction=0), "train")


def ignored(source: object) -> dict[str, str]:
    return {Path(one.name.rpartition(":")[2]).name: one.reason for one in source.ignored_files}  # type: ignore[attr-defined]


def test_no_image_of_a_tar_is_lost_for_its_name(tmp_path: Path) -> None:
    """Dots, large letters and missing suffixes; the same name up to the first dot belongs together."""
    members = {
        "0.image.png": png(),
        "0.CLS": b"1",
        "1.PNG": png(),
        "1.cls": b"0",
        "2": png(),
        "2.json": b'{"cls": 1}',
    }
    members |= {
        "0.mask.png": png(),
        "3.heic": b"?",
        "4.cls": b"1",
        "1.txt": b"beside",
        "._1.png": b"",
        "5": b"text",
    }
    members["__MACOSX/x.png"] = b""
    config = DataConfig("webdataset", make_tar(tmp_path / "in.tar", members), test_fraction=0)
    assert found(config) == (("0", "1"), [1, 0, 1])
    assert ignored(open_images(config, "train")) == {
        "0.mask.png": "0.image.png has its name up to the first dot, and is used",
        "3.heic": ".heic is not a suffix of images that Pillow opens",
        "4.cls": "no image has its name up to the first dot",
        "5": "not an image in a known format",
    }
    assert ignored(open_images(config, "test")) == {}


@pytest.mark.parametrize("name", ["in.tar.gz", "in.tgz", "in.zip", "in.tar"])
def test_a_compressed_tar_is_called_compressed(tmp_path: Path, name: str) -> None:
    from purrception.data import find_source

    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 whatever" if name.endswith("zip") else b"\x1f\x8b whatever")
    kind, root = find_source(str(path))
    with pytest.raises(InputError, match=r"is compressed \((gzip|zip)\).*unpack"):
        open_images(DataConfig(kind, root), "train")


def fill(root: Path, *files: str) -> DataConfig:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(png() if "empty" not in file else b"")
    return DataConfig("folder", str(root), test_fraction=0)


def test_folders_that_are_no_classes_are_none(tmp_path: Path) -> None:
    tools = [".ipynb_checkpoints/a.png", "__MACOSX/cat/._1.png", "@eaDir/1.png", "cat/.hidden.png"]
    config = fill(tmp_path, "cat/1.png", "dog/2.png", "cat/empty.png", "broken/empty.png", *tools)
    source = open_images(config, "train")
    assert source.class_names == ("cat", "dog")
    assert len(source) == 3
    assert ignored(source) == {"empty.png": "no image in its folder can be opened, so that it is not a class"}
    assert len(open_images(DataConfig("folder", str(tmp_path), classes=0, test_fraction=0), "train")) == 4


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "extra"), ("Training", "Validation")])
def test_splits_are_no_classes(tmp_path: Path, splits: tuple[str, ...]) -> None:
    config = fill(tmp_path, *(f"{split}/{name}/1.png" for split in splits for name in ("cat", "dog")))
    with pytest.raises(InputError, match=rf"holds splits, not classes .*give .*{splits[0]}"):
        open_images(config, "train")
    inner = DataConfig("folder", str(tmp_path / splits[0]), test_fraction=0)
    assert open_images(inner, "train").class_names == ("cat", "dog")


def test_suffixes_are_those_that_pillow_opens(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    kinds = {"a.jfif": "JPEG", "b.jp2": "JPEG2000", "c": "PNG", "d.TGA": "TGA", "e.qoi": "QOI", "f.avif": "AVIF"}
    for name, kind in kinds.items():
        try:
            image.convert("RGB").save(tmp_path / name, kind)
        except (KeyError, OSError):  # a Pillow without that codec
            (tmp_path / name).unlink(missing_ok=True)
    taken = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "README").write_text("text")
    (tmp_path / "g.heic").write_bytes(b"?")
    source = open_images(DataConfig("folder", str(tmp_path), test_fraction=0), "train")
    assert [Path(source.name(row)).name for row in range(len(source))] == taken  # type: ignore[attr-defined]
    assert {"a.jfif", "c", "d.TGA"} <= set(taken)
    assert ignored(source).keys() == {"README", "g.heic"}


def test_a_hub_data_set_holds_out_its_own_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sides = {}
    for split, labels in (("train", [0, 1, 2, 1]), ("test", [2, 0])):
        images = [{"bytes": png(number), "path": None} for number in range(len(labels))]
        made = datasets.Dataset.from_dict({"image": images, "label": labels})
        sides[split] = made.cast_column("image", datasets.Image())
    datasets.DatasetDict(sides).save_to_disk(tmp_path / "saved")
    config = DataConfig("hub", str(tmp_path / "saved"), hub_test_split="test", class_names=("a", "b", "c"))
    train, test = (open_images(config, split) for split in ("train", "test"))
    assert [train[index][1] for index in range(len(train))] == [0, 1, 2, 1]
    assert [test[index][1] for index in range(len(test))] == [2, 0]
    assert train.class_names == test.class_names == ("a", "b", "c")


def test_configured_names_give_way_to_the_images_own(tmp_path: Path) -> None:
    for name in ("boot", "bag"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    config = DataConfig("folder", str(tmp_path), test_fraction=0, class_names=("shoe", "sack"))
    source = open_images(config, "train")
    assert source.class_names == ("bag", "boot")
    assert [source[index][1] for index in range(2)] == [0, 1]
    with pytest.raises(InputError, match=r"gives 1 names; the images in .* have 2 classes: bag, boot"):
        open_images(DataConfig("folder", str(tmp_path), class_names=("shoe",)), "train")
