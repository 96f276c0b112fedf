"""Damaged and hostile files of images and of evaluations: an answer or one line, soon, in little memory."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from purrception.data import DataConfig, UnreadableImageError, decode_image, describe_report, open_images
from purrception.evaluation import ImageClassifier
from purrception.evaluation.diff import compare_results
from purrception.evaluation.extractors import Extracted
from purrception.evaluation.extractors.classifier import ClassifierExtractor, load_classifier, save_classifier
from purrception.evaluation.features import FeatureCache, ImageFeatures
from purrception.evaluation.generation import Expected, GeneratedCodes
from purrception.evaluation.image_sets import NpzImages
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.evaluation.references import Origin, open_reference, save_statistics
from purrception.utils.errors import InputError
from tests.fuzz.mutations import QUICK, hold, mutated

Read = Callable[[Path], object]


def torment(read: Read, path: Path, content: bytes, kind: str) -> int:
    """Hold ``read`` to its promise for many mutations; how many of them it took."""
    path.write_bytes(content)
    read(path)
    taken = 0
    for number in range(QUICK):
        dice = random.Random(f"{kind} {number}")
        damaged = content
        for _ in range(1 + (dice.random() < 0.2)):
            damaged = mutated(damaged, dice)
        taken += hold(read, path, damaged) is None
    print(f"{kind}: {QUICK} mutations, {taken} taken")
    return taken


def picture(format_: str = "PNG", level: int = 0, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, format_)
    return stream.getvalue()


def tar_of(members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def read_all(config: DataConfig) -> None:
    source = open_images(config, "train")
    for index in range(len(source)):
        try:
            source[index]
        except UnreadableImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def read_tar(path: Path) -> None:
    read_all(DataConfig("webdataset", str(path), test_fraction=0))


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tars(tmp_path: Path, kind: int) -> None:
    members = {f"{'long/' * 30}{number}.png": picture(level=number) for number in range(3)}
    members |= {f"{'long/' * 30}{number}.{suffix}": b"1" for number, suffix in enumerate(("cls", "cls"))}
    members |= {f"{'long/' * 30}2.json": b'{"label": 3}', "plain": picture("JPEG")}
    torment(read_tar, tmp_path / "in.tar", tar_of(members, kind), f"tar {kind}")


@pytest.mark.parametrize(
    ("suffix", "text"), [("cls", b"12"), ("json", b'{"caption": [1, {"a": 2.5}], "label": 3}')]
)
def test_labels_in_a_tar(tmp_path: Path, suffix: str, text: bytes) -> None:
    def read(path: Path) -> None:
        members = {"a.png": picture(), f"a.{suffix}": path.read_bytes(), "b.png": picture(), "b.cls": b"2"}
        (tmp_path / "in.tar").write_bytes(tar_of(members))
        read_tar(tmp_path / "in.tar")

    torment(read, tmp_path / "label", text, suffix)


LABELS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2000) | st.just("ENDLESS"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=min(QUICK, 500), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(LABELS, min_size=1, max_size=4))
def test_labels_of_any_kind(tmp_path_factory: pytest.TempPathFactory, labels: list[object]) -> None:
    folder = tmp_path_factory.getbasetemp() / "labels"
    folder.mkdir(exist_ok=True)
    rows = []
    for number, label in enumerate(labels):
        (folder / f"{number}.png").write_bytes(picture())
        rows.append({"file_name": f"{number}.png", "label": label})
    lines = "\n".join(map(json.dumps, rows)).replace('"ENDLESS"', "1" * 4200).encode()
    hold(
        lambda path: read_all(DataConfig("folder", str(folder), test_fraction=0)), folder / "metadata.jsonl", lines
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metadata(tmp_path: Path, suffix: str) -> None:
    texts = {
        "csv": 'file_name,text,label\na.png,"a, cat",1\nb/c.png,,0\n',
        "jsonl": '{"file_name": "a.png", "label": 1}\n{"file_name": "b/c.png", "x": [1.5], "label": 0}\n',
    }
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/c.png"):
        (tmp_path / name).write_bytes(picture())
    config = DataConfig("folder", str(tmp_path), test_fraction=0)
    torment(lambda _: read_all(config), tmp_path / f"metadata.{suffix}", texts[suffix].encode(), suffix)


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("WEBP", "RGBA"),
        ("TIFF", "RGB"),
        ("TIFF", "L"),
        ("BMP", "RGB"),
        ("PPM", "RGB"),
        ("ICO", "RGBA"),
        ("JPEG2000", "RGB"),
        ("TGA", "RGB"),
    ],
)
def test_image_files(tmp_path: Path, format_: str, mode: str) -> None:
    def read(path: Path) -> None:
        assert decode_image(path, path.name, 3).mode == "RGB"

    torment(read, tmp_path / "image", picture(format_, mode=mode), f"{format_} {mode}")


def test_npz_of_images(tmp_path: Path) -> None:
    content = {}
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8), np.arange(6) % 3
    for name, save in (("plain", np.savez), ("compressed", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, arr_0=images, arr_1=labels)
        content[name] = stream.getvalue()

    def read(path: Path) -> None:
        found = NpzImages(path)
        for start in range(0, len(found), 4):
            found.read(range(start, min(start + 4, len(found))))

    for name, whole in content.items():
        torment(read, tmp_path / "images.npz", whole, f"npz {name}")


def test_npz_of_statistics(tmp_path: Path) -> None:
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 3)))
    whole = ImageFeatures(
        FeatureStatistics.of(features),
        FeatureStatistics.of(features[:, :2]),
        features=features,
        logits=features,
        labels=torch.arange(9),
        content="abc",
        size=(8, 8),
    )
    save_statistics(tmp_path / "real.npz", whole, Origin("texture", "0" * 64, "val", "x"), {"count": 9})

    def read(path: Path) -> None:
        reference = open_reference(str(path), None, None)
        assert reference.saved is not None
        assert torch.equal(reference.saved.statistics.covariance, whole.statistics.covariance)
        assert reference.saved.count == 9

    torment(read, tmp_path / "fuzzed.npz", (tmp_path / "real.npz").read_bytes(), "npz statistics")


def test_cached_codes(tmp_path: Path) -> None:
    expected = Expected("key", 16, (2, 2), lambda rows: [row % 3 for row in rows])
    codes = GeneratedCodes(tmp_path, 5, expected)
    indices = torch.arange(20).reshape(5, 2, 2) % 16
    codes.write(0, indices, torch.arange(5) % 3, 4, 16)
    (file,) = tmp_path.iterdir()

    def read(_: Path) -> None:
        part = codes.part(0)
        if part is None:
            raise InputError("made again")
        assert np.array_equal(part[0], indices.numpy())
        assert (part[1].tolist(), part[2]) == ([0, 1, 2, 0, 1], 4)

    torment(read, file, file.read_bytes(), "cached codes")


class Named:
    """Stands for an extractor."""

    name, fingerprint, channels, any_size = "named", "0" * 64, 1, False

    def __call__(self, images: torch.Tensor) -> Extracted:
        raise NotImplementedError


def test_cached_features(tmp_path: Path) -> None:
    cache, features = FeatureCache(str(tmp_path)), torch.arange(12.0).reshape(4, 3)
    cache.save(Named(), "content", Extracted(features, features + 1, features + 2))
    (file,) = tmp_path.rglob("*.safetensors")

    def read(_: Path) -> None:
        found = cache.load(Named(), "content", 4)
        if found is None:
            raise InputError("made again")
        assert torch.equal(found.features, features)
        assert found.spatial is not None
        assert torch.equal(found.spatial, features + 1)

    torment(read, file, file.read_bytes(), "cached features")


def test_classifiers(tmp_path: Path) -> None:
    model = ImageClassifier(1, 8, 3, 2, ("cat", "dog", "emu"))
    save_classifier(model, tmp_path / "classifier.safetensors")
    fingerprint = ClassifierExtractor(model).fingerprint

    def read(path: Path) -> None:
        found = load_classifier(path)
        assert ClassifierExtractor(found).fingerprint == fingerprint
        assert found.class_names == ("cat", "dog", "emu")

    torment(read, tmp_path / "fuzzed", (tmp_path / "classifier.safetensors").read_bytes(), "classifier")


def test_reports_to_compare(tmp_path: Path) -> None:
    row = {
        "images": "guidance 1",
        "frechet": 3.5,
        "frechet_low": 3.0,
        "frechet_high": 4.0,
        "kid": 0.1,
        "kid_spread": 0.01,
        "nfe": 12,
        "guidance": 1.5,
    }
    report = {"manifest": {"count": 9, "images": {"seed": 0, "shares": [0.5, 0.5]}}, "rows": [row, row]}
    whole = json.dumps(report, indent=2).encode()
    (tmp_path / "whole.json").write_bytes(whole)
    torment(
        lambda path: compare_results(path, tmp_path / "whole.json", anyway=True),
        tmp_path / "report.json",
        whole,
        "report.json",
    )


def test_lists_of_skipped_images(tmp_path: Path) -> None:
    lines = b'{"image": "a.png", "reason": "empty"}\n{"file": "b.txt", "reason": "no image"}\n'
    torment(lambda path: describe_report(path.parent), tmp_path / "report.jsonl", lines, "report.jsonl")
