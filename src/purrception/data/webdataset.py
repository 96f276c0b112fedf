"""Images in tars, as webdataset lays them out: 00042.jpg beside 00042.cls or 00042.json."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import UnreadableImageError, can_be_opened, image_suffixes, not_an_image
from purrception.data.encoded import EncodedImages, expected_classes, hash_names, in_split
from purrception.data.labels import LABEL_NAMES, Label, class_names_of, read_label
from purrception.data.skipped import Skipped
from purrception.errors import InputError

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""How files begin that hold their content compressed."""
LABEL_SUFFIXES = (".cls", ".json")
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Member:
    """One image inside a tar, or the place of one that is lost."""

    name: str
    offset: int
    size: int
    label: Label = None
    damage: str = ""


@dataclass(frozen=True)
class Contents:
    """What a tar holds."""

    images: list[Member]
    left_over: list[Skipped]
    """Members that are no image, nor of one that is there."""


class TarImages(EncodedImages):
    """Uncompressed tars of images, read in place.

    What belongs together has one name up to its first dot, as in webdataset; the last suffix says what it is, in
    small letters or large ones. A label is the content of ``KEY.cls``, or ``label``, ``cls`` or ``class`` in
    ``KEY.json``, by the rule of :func:`read_label`. Only the number of images of each tar stays in memory, and the
    list of a few tars at a time. A damaged header loses its member.

    Raises:
        InputError: a tar is missing or compressed, there are no images, or a label is none.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self._split = split
        self.tars = expand_pattern(config.root)
        self._members = lru_cache(maxsize=8)(self._list_members)
        labels: set[Label] = set()
        left_over: list[Skipped] = []
        counts = []
        for number, tar in enumerate(self.tars):
            contents = self._read(tar)  # of both splits: a class that one lacks is a class all the same
            labels |= {member.label for member in contents.images}
            left_over += contents.left_over
            counts.append(sum(self._is_mine(number, member) for member in contents.images))
        if split == "train":
            self.passed_over = left_over
        self.class_names = expected_classes(class_names_of(labels, config.root), config)
        self._ends = np.cumsum(counts)

    def _read(self, tar: str) -> Contents:
        return read_members(tar, labelled=self.config.classes != 0)

    def _is_mine(self, number: int, member: Member) -> bool:
        key = f"{Path(self.tars[number]).name}:{member.name}"
        return in_split(key, self._split, self.config.test_fraction)

    def _list_members(self, number: int) -> list[Member]:
        return [member for member in self._read(self.tars[number]).images if self._is_mine(number, member)]

    @cached_property
    def listing(self) -> str:
        """A hash of the tars' names and sizes."""
        sizes = (f"{Path(tar).name} {os.path.getsize(tar)}" for tar in self.tars)
        return hash_names([self._split, *sizes])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[str, Member]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        members = self._members(number)
        return self.tars[number], members[index - int(self._ends[number]) + len(members)]

    def name(self, index: int) -> str:
        """Tar and member."""
        tar, member = self._find(index)
        return f"{tar}:{member.name}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Content and label of image ``index``."""
        tar, member = self._find(index)
        if member.damage:
            raise UnreadableImageError(f"{tar}:{member.name}", member.damage)
        label = self.number_of(member.label, index)
        with open(tar, "rb") as stream:
            stream.seek(member.offset)
            content = stream.read(member.size)
        if len(content) < member.size:
            raise UnreadableImageError(f"{tar}:{member.name}", "the tar ends within it")
        return content, label


def read_members(tar: str, *, labelled: bool = True) -> Contents:
    """The images of a tar in order, and what is left over; a gap of bytes that are no member is a lost image.

    Args:
        tar: its path.
        labelled: whether labels are looked at.

    Raises:
        InputError: it cannot be opened, is compressed, or holds a label that is none.
    """
    images: dict[str, Member] = {}
    labels: dict[str, Label] = {}
    others: list[tuple[str, Skipped]] = []
    try:
        _refuse_compressed(tar)
        with tarfile.open(tar, mode="r:", ignore_zeros=True) as archive, open(tar, "rb") as stream:
            for info in _walk(archive):
                if isinstance(info, Member):
                    images[info.name] = info
                    continue
                if any(part.startswith((".", "__")) and part != "." for part in info.name.split("/")):
                    continue  # what file managers leave behind
                key, name = _key(info.name), f"{tar}:{info.name}"
                suffix = Path(info.name).suffix.lower()
                stream.seek(info.offset_data)
                if suffix in image_suffixes() or (not suffix and can_be_opened(stream.read(info.size))):
                    if key in images:
                        reason = f"{images[key].name} has its name up to the first dot, and is taken"
                        others.append(("", Skipped(name, reason)))
                    images.setdefault(key, Member(info.name, info.offset_data, info.size))
                elif suffix in LABEL_SUFFIXES:
                    if labelled and (label := _label(suffix, stream.read(info.size), name)) is not None:
                        labels.setdefault(key, label)
                    others.append((key, Skipped(name, "no image has its name up to the first dot", "file")))
                else:
                    others.append((key, Skipped(name, not_an_image(info.name), "file")))
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read the tar {tar}: {error}") from error
    return Contents(
        [replace(image, label=labels.get(key)) for key, image in images.items()],
        [one for key, one in others if key not in images],
    )


def _key(name: str) -> str:
    """What the members of one sample share: the folder, and the name up to its first dot."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _refuse_compressed(tar: str) -> None:
    with open(tar, "rb") as stream:
        start = stream.read(8)
    for mark, kind in COMPRESSED.items():
        if start.startswith(mark):
            raise InputError(
                f"{tar} is compressed ({kind}), and images are read in place: unpack it into a tar or a folder"
            )


def _walk(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo | Member]:
    """Files, and a lost member for every gap between them that is not empty."""
    end, size = 0, os.path.getsize(str(archive.name))
    while True:
        try:
            info = archive.next()
        except tarfile.TarError:  # the tar ends within its last member
            info = None
        start = info.offset if info else size
        if start > end and _holds_data(str(archive.name), end, start):
            yield Member(f"byte {end}", end, 0, damage="its header in the tar is damaged")
        if info is None:
            return
        end = info.offset_data + -(-info.size // BLOCK) * BLOCK if info.isreg() else info.offset_data
        archive.members.clear()  # type: ignore[attr-defined]
        if info.isreg():
            yield info


def _holds_data(path: str, start: int, stop: int) -> bool:
    with open(path, "rb") as stream:
        stream.seek(start)
        for _ in range(start, stop, 2**20):
            if stream.read(min(2**20, stop - stream.tell())).strip(b"\0"):
                return True
    return False


def _label(suffix: str, content: bytes, name: str) -> Label:
    text = content.decode("utf-8", "replace")
    if suffix == ".cls":
        return read_label(text, name)
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return None
    found = [values[key] for key in LABEL_NAMES if key in values] if isinstance(values, dict) else []
    return read_label(found[0], name) if found else None


def expand_pattern(pattern: str) -> list[str]:
    """Paths of tars: one file, a glob, braces such as {000..146} or {a,b}, in order and without repeats.

    Raises:
        InputError: nothing is there, or one of the files named is missing.
    """
    paths: list[str] = []
    for path in _braces(pattern):
        found = sorted(glob.glob(path)) if not os.path.isfile(path) else [path]
        if not found:
            raise InputError(
                f"no tar at {path!r}: give a file, a glob or a range such as 'train-{{000..146}}.tar'"
            )
        paths += found
    return list(dict.fromkeys(paths))


def _braces(pattern: str) -> list[str]:
    parts: list[list[str]] = []
    for text, inner in re.findall(r"([^{]*)(?:\{([^{}]*)\})?", pattern):
        parts.append([text])
        if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
            first, last = numbers.groups()
            parts.append([f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)])
        elif inner:
            parts.append(inner.split(","))
    return ["".join(choice) for choice in itertools.product(*parts)]
