"""Files of images that claim or hold too much: one line, or a skipped image, soon and in little memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from purrception.data import (
    DataConfig,
    Skipped,
    Survey,
    UnreadableImageError,
    decode_image,
    describe_report,
    open_images,
    write_report,
)
from purrception.data.decoding import can_be_opened
from purrception.data.hub import HubImages
from purrception.data.tars import Part
from purrception.generation.image_processor import read_picture
from purrception.storage import LimitedReads
from purrception.utils.errors import InputError
from tests.data.test_labels import as_metadata, as_tar, found, make_tar, png


def tar_of(path: Path, **options: int) -> DataConfig:
    return DataConfig("webdataset", str(path), test_fraction=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [as_tar, as_metadata])
@pytest.mark.parametrize("label", [10_000_000_000, 1_764_000_000, 900_000, 10**400, "9" * 3000, "x" * 100_000])
def test_one_label_does_not_make_a_million_classes(tmp_path: Path, make, label: int | str) -> None:
    with pytest.raises(InputError, match=r"has the label|holds the label") as refused:
        open_images(make(tmp_path, [0, label]), "train")
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


def test_many_classes_are_taken_where_the_images_use_them() -> None:
    from purrception.data.labels import class_names_of

    assert len(class_names_of([21_840], "ImageNet-21k")) == 21_841
    assert len(class_names_of(range(0, 200_000, 5), "it")) == 199_996
    with pytest.raises(InputError, match="at least a tenth occur"):
        class_names_of(range(0, 200_000, 50), "it")
    with pytest.raises(InputError, match="1048577 names"):
        class_names_of(map("n{}".format, range(2**20 + 1)), "it")


@pytest.mark.parametrize(
    ("json_text", "reason"),
    [
        (b"[" * 50_000, "nested too deeply"),
        (b'{"label": ' + b"1" * 5000 + b"}", "limit"),
        (b'{"label": "' + b"x" * 2**20 + b'"}', "labels have at most 1048576"),
        (b"{", "not JSON"),
    ],
)
def test_labels_that_cannot_be_read_cost_their_image_only(tmp_path: Path, json_text: bytes, reason: str) -> None:
    members = {"a.png": png(), "a.json": json_text, "b.png": png(), "b.cls": b"1"}
    config = tar_of(Path(make_tar(tmp_path / "in.tar", members)))
    assert found(config) == (("0", "1"), ["it has no label, while others have one", 1])
    (one,) = open_images(config, "train").ignored_files  # type: ignore[attr-defined]
    assert one.name.endswith("in.tar:a.json")
    assert reason in one.reason


def header(name: str, size: bytes, kind: bytes = b"0", rest: bytes = b"") -> bytes:
    """A header of a tar with whatever size it is told, and a checksum that fits."""
    fields = [
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        size,
        b"0" * 11 + b"\0",
        b" " * 8,
        kind,
    ]
    block = bytearray((b"".join(fields) + b"\0" * 100 + b"ustar  \0").ljust(345, b"\0") + rest)
    block = block.ljust(512, b"\0")
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // 512) * 512, b"\0")


def whole(name: str, content: bytes) -> bytes:
    return header(name, f"{len(content):011o}\0".encode()) + padded(content)


OCTAL_8_GB, FAR_TOO_MUCH, NEGATIVE = b"77777777777\0", b"\x80" + b"\x7f" * 11, b"\xff" * 10 + b"\xfc\x00"


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K"], ids=["file", "pax", "global", "name", "link"])
@pytest.mark.parametrize("size", [OCTAL_8_GB, FAR_TOO_MUCH, NEGATIVE], ids=["8 GB", "10^26 bytes", "negative"])
def test_sizes_in_a_tar_are_not_believed(tmp_path: Path, size: bytes, kind: bytes) -> None:
    """Sizes below zero led back to the same header for ever; large ones were allocated, or ended the tar."""
    lie = header("lie.png", size, kind)
    (tmp_path / "in.tar").write_bytes(whole("a.png", png()) + lie + whole("b.png", png(9)) + bytes(1024))
    source = open_images(tar_of(tmp_path / "in.tar"), "train")
    readable, reasons = [], []
    for index in range(len(source)):
        try:
            source[index]
            readable.append(Path(source.name(index)).name)  # type: ignore[attr-defined]
        except UnreadableImageError as error:
            reasons.append(error.reason)
    assert readable == ["in.tar:a.png", "in.tar:b.png"]
    assert reasons in (["the tar ends within it"], ["its header in the tar is damaged"])


def test_a_sparse_member_is_a_damaged_image(tmp_path: Path) -> None:
    holes = b"\0" * 41 + b"00000000000\0" + b"00000000000\0" + b"\0" * 73 + b"\0" + b"45201371000\0"  # 5 GB in all
    sparse = header("sparse.png", b"00000000000\0", b"S", holes)
    (tmp_path / "in.tar").write_bytes(whole("a.png", png()) + sparse + whole("b.png", png()) + bytes(1024))
    reasons = found(tar_of(tmp_path / "in.tar"))[1]
    assert len(reasons) == 3
    assert "sparse" in str(reasons[1])
    assert (reasons[0], reasons[2]) == (0, 0)


def test_headers_without_end_lose_themselves_only(tmp_path: Path) -> None:
    chain = header("x", b"00000000000\0", b"x") * 3000
    (tmp_path / "in.tar").write_bytes(chain + whole("b.png", png()) + bytes(1024))
    labels = found(tar_of(tmp_path / "in.tar"))[1]
    assert labels.count(0) == 1
    assert len(labels) <= 3


def test_a_large_member_without_a_suffix_is_not_read_whole(tmp_path: Path) -> None:
    class Counted(io.FileIO):
        read_so_far = 0

        def read(self, size: int | None = -1, /) -> bytes:  # type: ignore[override]
            content = super().read(size) or b""
            Counted.read_so_far += len(content)
            return content

    with (tmp_path / "video").open("wb") as file:
        file.truncate(8 * 2**30)  # a hole on this disk
    with Counted(tmp_path / "video") as stream:
        part = Part(stream, 1024, 8 * 2**30 - 2048)  # type: ignore[arg-type]
        assert not can_be_opened(io.BufferedReader(part))
    assert Counted.read_so_far < 2**20


@pytest.mark.parametrize("pattern", ["in-{0..99999999999}.tar", "{0..9999}{0..9999}.tar"])
def test_a_range_of_tars_has_an_end(pattern: str) -> None:
    with pytest.raises(InputError, match="at most 1000000 are accepted"):
        open_images(DataConfig("webdataset", pattern), "train")


def test_an_image_has_at_most_a_hundred_megapixels(tmp_path: Path) -> None:
    for side, said in (
        (10_001, "10001×10001 are 100 megapixels; at most 100"),
        (13_500, "at most 100 are accepted"),
    ):
        file = tmp_path / f"{side}.png"
        Image.new("1", (side, side)).save(file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UnreadableImageError, match=said):
                decode_image(file, "it", 3)
            with pytest.raises(InputError, match="at most 40 are accepted: scale it down"):
                read_picture(file)


SIDE = 6000
PROBE = """
import sys
from pathlib import Path
from purrception.data import decode_image
from purrception.data.transforms import pil_to_array

def most() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

for name in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = most()
    pil_to_array(decode_image(Path(name), "it", 3), 64, 3)
    print(most() - before)
"""
BYTES_A_PIXEL = {"RGB": 8, "RGBA": 9, "I;16": 9, "turned": 9}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Megabytes that a process takes at most to decode a large image of each mode."""
    folder, exif = tmp_path_factory.mktemp("large"), Image.Exif()
    exif[0x0112] = 6
    for mode in BYTES_A_PIXEL:
        image = Image.new("RGB" if mode == "turned" else mode, (SIDE, SIDE))
        image.save(folder / f"{mode}.png", **{"exif": exif} if mode == "turned" else {})
    files = [str(folder / f"{mode}.png") for mode in BYTES_A_PIXEL]
    done = subprocess.run([sys.executable, "-c", PROBE, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(BYTES_A_PIXEL, map(float, done.stdout.split()), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak of memory")
@pytest.mark.parametrize("mode", BYTES_A_PIXEL)
def test_a_large_image_is_in_memory_once_or_twice(mode: str, peaks: dict[str, float]) -> None:
    """RGB takes four bytes a pixel; there were up to 38 of them."""
    assert 3 * SIDE * SIDE / 2**20 < peaks[mode] < BYTES_A_PIXEL[mode] * SIDE * SIDE / 2**20 + 30


def test_a_jpeg_of_thousands_of_scans_is_refused_and_what_a_camera_appends_is_no_scan() -> None:
    """Each took as long as the image: 500 bytes made a second of work."""
    stream = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    assert decode_image(content + scan * 5000, "video behind it", 3).size == (1000, 1000)
    assert decode_image(content[:-2] + scan * 20 + content[-2:], "some", 3).size == (1000, 1000)
    with pytest.raises(UnreadableImageError, match="a progressive JPEG of 5010 scans"):
        decode_image(content[:-2] + scan * 5000 + content[-2:], "many", 3)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        "alpha": Image.fromarray(rng.integers(0, 256, (50, 40, 4), dtype=np.uint8)),
        "deep": Image.fromarray(rng.integers(0, 2**16, (50, 40), dtype=np.uint16)),
        "grey": Image.fromarray(rng.integers(0, 256, (50, 40, 2), dtype=np.uint8), "LA"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")

    def read() -> list[bytes]:
        return [decode_image(tmp_path / f"{name}.png", name, c).tobytes() for name in pictures for c in (1, 3)]

    expected = read()
    monkeypatch.setattr("purrception.data.decoding.BAND", 130)
    assert read() == expected


def test_one_pixel_of_colour_is_found_in_any_band(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("purrception.data.decoding.BAND", 130)
    config = DataConfig("folder", str(tmp_path), channels=3, test_fraction=0)
    picture = Image.new("RGB", (40, 50))
    picture.save(tmp_path / "a.png")
    assert Survey.of(config).grey
    picture.putpixel((39, 49), (0, 0, 1))
    picture.save(tmp_path / "a.png")
    assert not Survey.of(config).grey


def test_no_other_program_is_run_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "EPS")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(UnreadableImageError, match="not an image in a known format"):
        decode_image(tmp_path / "a.png", "a", 3)


def test_a_pipe_in_a_folder_is_ignored(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(png())
    assert found(DataConfig("folder", str(tmp_path), test_fraction=0))[1] == [0, "the file is empty"]


@pytest.mark.parametrize(
    "text",
    [
        '{"file_name": "\\ud800.png", "label": 1}',
        '{"label": ' + "[" * 50_000,
        "[" * 2**21,
        '{"label": ' + "1" * 5000,
    ],
    ids=["no text", "deep", "long", "number"],
)
def test_metadata_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        open_images(DataConfig("folder", str(tmp_path)), "train")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["{", '["a"]', '{"image": 1, "reason": "x"}', '{"image": "a"}', "[" * 50_000, "\udcff"]
)
def test_a_damaged_list_of_skipped_images_is_one_line(tmp_path: Path, text: str) -> None:
    write_report(tmp_path, [Skipped("a.png", "empty")])
    assert "1 skipped, such as a.png (empty)" in describe_report(tmp_path)
    (tmp_path / "report.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"report\.jsonl is not a list of skipped images.*; remove it"):
        describe_report(tmp_path)


def test_rows_of_a_hub_data_set_that_make_no_sense_are_skipped() -> None:
    source = HubImages.__new__(HubImages)
    source.config, source.class_names = DataConfig("hub", "it"), ("cat", "dog")
    rows = [
        {"image": {"bytes": png(), "path": None}, "label": 7},
        {"image": {"bytes": None, "path": None}, "label": 1},
    ]
    Rows = type("Rows", (list,), {"features": {"label": type("ClassLabel", (), {})()}})  # noqa: N806
    source._rows, source._image, source._label = Rows(rows), "image", "label"
    source._selected = np.arange(3)
    for index, reason in enumerate(["no label", "neither an image's content nor its path", "out of range"]):
        with pytest.raises(UnreadableImageError, match=reason):
            source[index]


def test_a_file_is_not_read_by_more_than_its_limit_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with LimitedReads(tmp_path / "a", 40) as file:
        assert file.read(40) == bytes(range(40))
        assert file.seek(70) == 70
        assert file.read() == bytes(range(70, 100))
        for asked in (41, 10**30, -5, -(10**30)):
            with pytest.raises(InputError, match=r"claims a part of .* bytes; at most 40"):
                file.read(asked)
        file.seek(10)
        with pytest.raises(InputError, match="90 bytes"):
            file.read()
