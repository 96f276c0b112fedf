"""Images in tars, as webdataset lays them out: 00042.jpg beside 00042.cls or 00042.json."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import IMAGE_SUFFIXES, UnreadableImageError
from purrception.data.encoded import EncodedImages, expected_classes, hash_names, in_split
from purrception.errors import InputError

LABEL_KEYS = ("label", "cls", "class")
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """One image inside a tar, or the place of one that is lost."""

    name: str
    offset: int
    size: int
    label: str | None = None
    damage: str = ""


class TarImages(EncodedImages):
    """Uncompressed tars of images, read in place.

    A label is the content of ``KEY.cls``, or ``label``, ``cls`` or ``class`` in ``KEY.json``: whole numbers,
    which are taken as they are, or names, which are numbered in alphabetical order. Only the number of images
    of each tar stays in memory, and the list of a few tars at a time. A damaged header loses its member.

    Raises:
        InputError: a tar is missing or compressed, or labels are of two kinds.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self._split = split
        self.tars = expand_pattern(config.root)
        self._members = lru_cache(maxsize=8)(self._list_members)
        labels: set[str] = set()
        counts = []
        for number, tar in enumerate(self.tars):
            members = read_members(tar)  # of both splits: a class that one lacks is a class all the same
            labels |= {member.label for member in members if member.label is not None}
            counts.append(sum(self._is_mine(number, member) for member in members))
        self.class_names = expected_classes(_class_names(labels, config.root), config)
        self._label_of = {name: label for label, name in enumerate(self.class_names)}
        self._ends = np.cumsum(counts)

    def _is_mine(self, number: int, member: Member) -> bool:
        key = f"{Path(self.tars[number]).name}:{member.name}"
        return in_split(key, self._split, self.config.test_fraction)

    def _list_members(self, number: int) -> list[Member]:
        return [member for member in read_members(self.tars[number]) if self._is_mine(number, member)]

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
        if self.class_names and member.label is None:
            raise UnreadableImageError(f"{tar}:{member.name}", "it has no label, while others have one")
        with open(tar, "rb") as stream:
            stream.seek(member.offset)
            content = stream.read(member.size)
        if len(content) < member.size:
            raise UnreadableImageError(f"{tar}:{member.name}", "the tar ends within it")
        return content, self._label_of[_plain(member.label or "")] if self.class_names else 0


def _plain(label: str) -> str:
    """A number without leading zeros; a name as it is."""
    return str(int(label)) if re.fullmatch(r"\d+", label) else label


def _class_names(labels: set[str], root: str) -> tuple[str, ...]:
    """Names by label: 0 to the largest number, or the names in order."""
    plain = {_plain(label) for label in labels}
    numbers = {label for label in plain if label.isdecimal()}
    if numbers and numbers != plain:
        other = sorted(plain - numbers)[0]
        raise InputError(f"{root} holds labels that are numbers and others such as {other!r}: use one kind")
    if numbers:
        return tuple(map(str, range(max(map(int, numbers)) + 1)))
    return tuple(sorted(plain))


def read_members(tar: str) -> list[Member]:
    """The images of a tar in order, with their labels; a gap of bytes that are no member counts as a lost one.

    Raises:
        InputError: it cannot be opened, or is compressed.
    """
    images: dict[str, Member] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(tar, mode="r:", ignore_zeros=True) as archive, open(tar, "rb") as stream:
            for info in _walk(archive):
                if isinstance(info, Member):
                    images[info.name] = info
                    continue
                folder, _, file = info.name.rpartition("/")
                key, _, suffix = file.partition(".")
                key = f"{folder}/{key}"
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    images.setdefault(key, Member(info.name, info.offset_data, info.size))
                elif suffix in ("cls", "json"):
                    stream.seek(info.offset_data)
                    if label := _label(suffix, stream.read(info.size)):
                        labels.setdefault(key, label)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read the tar {tar}: {error}; compressed ones must be unpacked first") from error
    return [
        Member(image.name, image.offset, image.size, labels.get(key), image.damage)
        for key, image in images.items()
    ]


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


def _label(suffix: str, content: bytes) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if suffix == "cls":
        return text or None
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return None
    found = [values[key] for key in LABEL_KEYS if isinstance(values, dict) and values.get(key) is not None]
    return str(found[0]) if found else None


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
