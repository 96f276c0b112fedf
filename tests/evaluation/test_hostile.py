"""Files of an evaluation that somebody altered, cut or made up: one line, or made again; never other figures."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from purrception.data import DataConfig
from purrception.evaluation import ClassifierConfig, FeatureStatistics, ImageClassifier
from purrception.evaluation.classifier_training import train_or_load_classifier
from purrception.evaluation.diff import compare_results
from purrception.evaluation.extractors import Extracted
from purrception.evaluation.extractors.classifier import ClassifierExtractor, load_classifier, save_classifier
from purrception.evaluation.features import FeatureCache, ImageFeatures
from purrception.evaluation.generation import Expected, GeneratedCodes
from purrception.evaluation.image_sets import NpzImages, split_images
from purrception.evaluation.references import Origin, open_reference, save_statistics
from purrception.utils.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """A ``.npy``, whose header may tell another shape than it has."""
    stream = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape if shape is None else shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()


def write(path: Path, kind: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def line(read: object, *arguments: object) -> str:
    """The one line that refuses."""
    with pytest.raises(InputError) as refused:
        read(*arguments)  # type: ignore[operator]
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1500
    return str(refused.value)


@pytest.mark.parametrize("label", [2**40, 1.0e300, 2**20, 900_000])
def test_one_label_of_an_npz_does_not_make_a_million_classes(tmp_path: Path, label: float) -> None:
    np.savez(tmp_path / "a.npz", IMAGES, np.array([0, 1, 2, 0, 1, label]))
    assert "holds the label" in line(NpzImages, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy(IMAGES, (2**40, 4, 5, 3)), "it is damaged"),
        (npy(IMAGES, (7, 4, 5, 3)), "it is damaged"),
        (npy(IMAGES, (-6, 4, 5, 3)), "numbers and texts"),
        (npy(IMAGES, (6, 4, 5, 3))[:-1], "it is damaged"),
        (npy(np.zeros((2, 0, 5, 3), np.uint8)), "expected are images"),
        (npy(np.zeros((0, 30_000, 30_000, 3), np.uint8)), "at most 100 megapixels"),
        (npy(IMAGES).replace(b"|u1", b"|O8"), "numbers and texts"),
        (npy(IMAGES).replace(b"{", b"(" * 80, 1), "is not an .npz that can be read"),
        (b"", "is not an .npz that can be read"),
        (b"\x93NUMPY\x01\x00", "is not an .npz that can be read"),
    ],
)
def test_shapes_are_held_against_the_bytes(tmp_path: Path, member: bytes, said: str) -> None:
    assert said in line(NpzImages, write(tmp_path / "a.npz", arr_0=member))


def test_an_npz_is_as_numpy_writes_it(tmp_path: Path) -> None:
    assert "compressed as numpy never does" in line(
        NpzImages, write(tmp_path / "a.npz", zipfile.ZIP_LZMA, arr_0=npy(IMAGES))
    )
    content = bytearray(write(tmp_path / "b.npz", arr_0=npy(IMAGES)).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # encrypted, says the list of members
    (tmp_path / "b.npz").write_bytes(content)
    assert "encrypted" in line(NpzImages, tmp_path / "b.npz")
    twice = write(tmp_path / "c.npz", arr_0=npy(IMAGES), arr_9=npy(IMAGES)).read_bytes()
    (tmp_path / "c.npz").write_bytes(twice.replace(b"arr_9", b"arr_0"))
    assert "two arrays of one name" in line(NpzImages, tmp_path / "c.npz")
    assert "holds no arr_0" in line(NpzImages, write(tmp_path / "d.npz", other=npy(IMAGES)))
    (tmp_path / "e.npz").write_bytes(write(tmp_path / "f.npz", arr_0=npy(IMAGES)).read_bytes()[:-30])
    assert "is not an .npz that can be read" in line(NpzImages, tmp_path / "e.npz")


def test_a_changed_byte_of_an_npz_is_noticed_when_its_end_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", IMAGES)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "Bad CRC-32" in line(lambda: NpzImages(tmp_path / "a.npz").read(range(6)))


@pytest.mark.parametrize("name", ["arr_0", "features"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, name: str) -> None:
    shape = (9, 3000, 3000, 1) if name == "arr_0" else (81_000_000,)
    bomb = {"mu": npy(np.zeros(3)), "sigma": npy(np.eye(3)), name: npy(np.zeros(shape, np.uint8))}
    write(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, **bomb)
    assert "save it uncompressed" in line(open_reference, str(tmp_path / "a.npz"), None, None)


def test_arrays_that_are_not_asked_for_stay_in_the_file(tmp_path: Path) -> None:
    other = npy(np.zeros(0, np.uint8), (2**50,))
    write(tmp_path / "a.npz", mu=npy(np.zeros(3)), sigma=npy(np.eye(3)), other=other)
    assert open_reference(str(tmp_path / "a.npz"), None, None).saved is not None


ORIGIN = {"features": "texture", "fingerprint": "0" * 64, "protocol": "val", "title": "x"}
GOOD = {"mu": np.zeros(3), "sigma": np.eye(3), "count": np.array(9), "features": np.ones((4, 3), np.float32)}
ASYMMETRIC, NEGATIVE = np.eye(3), np.diag([1.0, -1.0, 1.0])
ASYMMETRIC[0, 1] = 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sigma": ASYMMETRIC}, "not symmetric"),
        ({"sigma": NEGATIVE}, "a variance is negative"),
        ({"sigma": np.eye(4)}, "expected are"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "expected are"),
        ({"mu": np.full(3, 1e200)}, "beyond 1e+100"),
        ({"count": np.array(1)}, "of 1 images"),
        ({"count": np.array([1, 2])}, "make it again"),
        ({"count": np.array("many")}, "make it again"),
        ({"features": np.ones((4, 2))}, "features are of shape [4, 2]"),
        ({"features": np.ones((10, 3))}, "features are of shape [10, 3]"),
        ({"logits": np.ones((3, 5))}, "logits are of shape [3, 5]"),
        ({"labels": np.zeros(3, np.int64)}, "labels are of shape [3]"),
        ({"labels": np.array([0, 1, 2, 2**40])}, "labels are from 0 to 1099511627776"),
        ({"labels": np.zeros(4)}, "labels are of shape"),
        ({"size": np.array([1, 2, 3])}, "the size of images"),
        ({"origin": np.array("[" * 5000)}, "make it again"),
        ({"origin": np.array(json.dumps({"features": "texture"}))}, "make it again"),
        ({"origin": np.array(json.dumps({**ORIGIN, "title": 7}))}, "make it again"),
        ({"origin": np.array(json.dumps({**ORIGIN, "protocol": "vel"}))}, "did you mean 'val'"),
        ({"sha256": np.array("0" * 64)}, "damaged or altered"),
    ],
)
def test_statistics_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    assert open_reference(str(tmp_path / "good.npz"), None, None).saved is not None
    np.savez(tmp_path / "bad.npz", **{**GOOD, **changes})
    assert said in line(open_reference, str(tmp_path / "bad.npz"), None, None)


def test_altered_statistics_are_noticed(tmp_path: Path) -> None:
    statistics = FeatureStatistics(torch.zeros(3).double(), torch.eye(3).double(), 9)
    save_statistics(tmp_path / "a.npz", ImageFeatures(statistics), Origin(**ORIGIN), {})
    assert open_reference(str(tmp_path / "a.npz"), None, None).saved is not None
    with np.load(tmp_path / "a.npz") as content:
        np.savez(tmp_path / "b.npz", **{**content, "mu": content["mu"] + 0.01})
    assert "damaged or altered" in line(open_reference, str(tmp_path / "b.npz"), None, None)


def codes_of(folder: Path, request: str = "key") -> GeneratedCodes:
    codes = GeneratedCodes(folder, 5, Expected(request, 16, (2, 2), lambda rows: [row % 3 for row in rows]))
    if not codes.is_valid(0):
        codes.write(0, torch.arange(20).reshape(5, 2, 2) % 16, torch.arange(5) % 3, 4, 16)
    return codes


@pytest.mark.parametrize("name", ["indices", "labels", "nfe"])
def test_altered_codes_are_made_again_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    codes = codes_of(tmp_path)
    (file,) = tmp_path.iterdir()
    whole, tensors = file.read_bytes(), load_file(file)
    content = bytearray(whole)
    content[-1 if name == "indices" else content.index(tensors[name].numpy().tobytes())] ^= 1
    file.write_bytes(content)
    assert "is damaged or altered" in line(codes.part, 0)
    assert "is damaged or altered" in line(codes_again(tmp_path).rows, np.arange(5))
    codes_of(tmp_path)
    assert "codes-00000.safetensors is damaged or altered" in capsys.readouterr().err
    assert file.read_bytes() == whole


def codes_again(folder: Path) -> GeneratedCodes:
    return GeneratedCodes(folder, 5)


def test_codes_of_another_request_or_part_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    codes_of(tmp_path / "a", "another")
    (tmp_path / "a/codes-00000.safetensors").rename(tmp_path / "b/codes-00000.safetensors")
    codes = GeneratedCodes(tmp_path / "b", 5, Expected("key", 16, (2, 2), lambda rows: [row % 3 for row in rows]))
    assert "of other images" in line(codes.part, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"indices": torch.full((5, 2, 2), 16, dtype=torch.int32)}, "codes are below 16"),
        ({"indices": torch.full((5, 2, 2), -1, dtype=torch.int32)}, "codes are below 16"),
        ({"indices": torch.zeros((5, 2, 3), dtype=torch.int32)}, "on a grid of 2×2"),
        ({"indices": torch.zeros((5, 2, 2))}, "do not go with"),
        ({"labels": torch.zeros(5, dtype=torch.int32)}, "not those that were requested"),
        ({"labels": torch.zeros(4, dtype=torch.int32)}, "do not go with"),
        ({"nfe": torch.zeros(0, dtype=torch.int32)}, "generated codes"),
    ],
)
def test_codes_of_earlier_versions_are_taken_with_a_line_if_they_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, torch.Tensor], said: str
) -> None:
    """They carry no digest: what can be known of them is looked at, and that the rest is not known is said."""
    codes = codes_of(tmp_path)
    (file,) = tmp_path.iterdir()
    expected = codes.rows(np.arange(5))[0]
    save_file({**load_file(file), **changes}, file)
    if said:
        assert said in line(codes.part, 0)
    else:
        assert np.array_equal(codes_again(tmp_path).rows(np.arange(5))[0], expected)
        assert "of an earlier version, which gave them no digest" in capsys.readouterr().err


class Named:
    """Stands for an extractor."""

    name, channels, any_size = "named", 1, False

    def __init__(self, fingerprint: str = "0" * 64) -> None:
        self.fingerprint = fingerprint

    def __call__(self, images: torch.Tensor) -> Extracted:
        raise NotImplementedError


def test_altered_features_of_the_cache_count_as_none(tmp_path: Path) -> None:
    cache, features = FeatureCache(str(tmp_path)), torch.arange(12.0).reshape(4, 3)
    cache.save(Named(), "content", Extracted(features))
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    assert cache.load(Named(), "content", 4) is not None
    assert cache.load(Named(), "content", 5) is None
    assert cache.load(Named("0" * 16 + "1" * 48), "content", 4) is None  # the folder's name is of the first digits
    file.write_bytes(whole[:-1] + b"\1")
    assert cache.load(Named(), "content", 4) is None
    save_file({"features": features}, file)  # of an earlier version
    assert cache.load(Named(), "content", 4) is None


def test_a_classifier_is_what_its_digest_says(tmp_path: Path) -> None:
    file, model = tmp_path / "c.safetensors", ImageClassifier(1, 8, 3, 2, ("cat", "dog", "emu"))
    save_classifier(model, file)
    whole = file.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b"emu", b"gnu")):
        file.write_bytes(content)
        assert "is damaged or altered" in line(load_classifier, file)


SIZES = {"channels": 1, "image_size": 8, "classes": 3, "feature_dim": 2, "class_names": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 10**12},
        {"classes": "3"},
        {"image_size": 10**6},
        {"image_size": 10**30},
        {"channels": 2},
        {"class_names": ["a"]},
        {"class_names": 7},
        {"feature_dim": 10**9},
        {"image_size": None},
    ],
    ids=str,
)
def test_a_classifier_of_an_earlier_version_loads_if_its_sizes_are_those_of_its_weights(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """Sizes were believed: a classifier of 10^12 classes asked for all the memory there is."""
    model, file = ImageClassifier(1, 8, 3, 2), tmp_path / "c.safetensors"
    save_file(model.state_dict(), file, {"sizes": json.dumps(SIZES)})
    assert ClassifierExtractor(load_classifier(file)).fingerprint == ClassifierExtractor(model).fingerprint
    save_file(model.state_dict(), file, {"sizes": json.dumps({**SIZES, **changes})})
    assert "is not a classifier" in line(load_classifier, file)


def test_a_classifier_of_the_cache_without_a_digest_is_learned_again(tmp_path: Path) -> None:
    cache, images = FeatureCache(str(tmp_path)), split_images(DataConfig(), "test", 20)
    learned = train_or_load_classifier(images, 10, ClassifierConfig(1), cache=cache)
    (file,) = (tmp_path / "classifiers").iterdir()
    whole, tensors = file.read_bytes(), load_file(file)
    sizes = {name: getattr(learned, name) for name in ("channels", "image_size", "classes", "feature_dim")}
    save_file({**tensors, "output.bias": tensors["output.bias"] + 1}, file, {"sizes": json.dumps(sizes)})
    train_or_load_classifier(images, 10, ClassifierConfig(1), cache=cache)
    assert file.read_bytes() == whole


ROW = {"images": "x", "frechet": 3.5, "frechet_low": 3.0, "frechet_high": 4.0}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "[" * 50_000,
        '{"manifest": [], "rows": []}',
        '{"manifest": {}, "rows": {}}',
        json.dumps({"manifest": {}, "rows": [{**ROW, "frechet": "3"}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "frechet": float("nan")}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "frechet_low": None}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "kid": 0.1, "kid_spread": "0.1"}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "guidance": "much"}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "recall": 0.5, "recall_low": [0.4], "recall_high": 0.6}]}),
        json.dumps({"manifest": {}, "rows": [{"images": "x"}]}),
        json.dumps({"manifest": {}, "rows": [{**ROW, "images": None}]}),
        json.dumps({"manifest": {}, "rows": [7]}),
        '{"manifest": {}, "rows": [{"images": "x", "frechet": 1' + "0" * 400 + "}]}",
        "\udcff",
    ],
)
def test_reports_that_are_none_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "good.json").write_text(json.dumps({"manifest": {}, "rows": [ROW]}))
    assert "same distance" in compare_results(tmp_path / "good.json", tmp_path / "good.json")
    (tmp_path / "bad.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "is not a report of" in line(compare_results, tmp_path / "bad.json", tmp_path / "good.json")
