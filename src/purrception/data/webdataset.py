"""Images in tars in webdataset's layout: 00042.jpg beside 00042.cls or 00042.json."""

from __future__ import annotations

import glob
import io
import itertools
import json
import math
import os
import re
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import (
    LARGEST_FILE,
    UnreadableImageError,
    can_be_opened,
    image_suffixes,
    not_an_image,
)
from purrception.data.image_files import ImageFiles, expected_classes, hash_names, in_split
from purrception.data.labels import LABEL_NAMES, Label, class_names_of, read_label
from purrception.data.skip_report import Skipped
from purrception.data.tars import CUT, Member, Part, walk_tar
from purrception.storage import plain_reason, reading
from purrception.utils.errors import InputError

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""The first bytes of compressed files."""
LABEL_SUFFIXES = (".cls", ".json")
LARGEST_LABEL_FILE = 2**20
"""The largest ``.cls`` or ``.json``, in bytes."""
MOST_TARS = 10**6
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip")


class TarImages(ImageFiles):
    """Uncompressed tars of images, read in place.

    Members belong together if their names agree up to the first dot, as in webdataset; the last suffix, in any
    case, says what a member is. A label is the content of ``KEY.cls``, or ``label``, ``cls`` or ``class`` in
    ``KEY.json``, read by :func:`read_label`. Only the number of images in each tar stays in memory, and the lists
    of a few tars. A damaged header loses its member.

    Raises:
        InputError: a tar is missing or compressed, there are no images, or a label is invalid.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self._split = split
        self.tars = expand_pattern(config.root)
        self._members = lru_cache(maxsize=8)(self._list_members)
        labels: set[Label] = set()
        ignored: list[Skipped] = []
        counts = []
        for number, tar in enumerate(self.tars):
            images, others = self._read(tar)  # of both splits, for a class that one of them lacks
            labels |= {member.label for member in images}
            ignored += others
            counts.append(sum(self._is_mine(number, member) for member in images))
        if split == "train":
            self.ignored_files = ignored
        self.class_names = expected_classes(class_names_of(labels, config.root), config)
        self._ends = np.cumsum(counts)

    def _read(self, tar: str) -> tuple[list[Member], list[Skipped]]:
        return read_members(tar, labelled=self.config.classes != 0)

    def _is_mine(self, number: int, member: Member) -> bool:
        key = f"{Path(self.tars[number]).name}:{member.name}"
        return in_split(key, self._split, self.config.test_fraction)

    def _list_members(self, number: int) -> list[Member]:
        return [member for member in self._read(self.tars[number])[0] if self._is_mine(number, member)]

    @cached_property
    def listing(self) -> str:
        """A hash of the names and sizes of the tars."""
        sizes = (f"{Path(tar).name} {os.path.getsize(tar)}" for tar in self.tars)
        return hash_names([self._split, *sizes])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[str, Member]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        members = self._members(number)
        return self.tars[number], members[index - int(self._ends[number]) + len(members)]

    def name(self, index: int) -> str:
        """The tar and the member."""
        tar, member = self._find(index)
        return f"{tar}:{member.name}"

    def read(self, index: int) -> tuple[bytes, int]:
        """The content of image ``index``, and its label."""
        tar, member = self._find(index)
        damage = member.damage
        if member.size > LARGEST_FILE:
            damage = damage or f"{member.size} bytes; an image's file has at most {LARGEST_FILE}"
        if damage:
            raise UnreadableImageError(self.name(index), damage)
        label = self.number_of(member.label, index)
        with open(tar, "rb") as stream:
            stream.seek(member.offset)
            content = stream.read(member.size)
        if len(content) < member.size:
            raise UnreadableImageError(self.name(index), CUT)
        return content, label


def read_members(tar: str, *, labelled: bool) -> tuple[list[Member], list[Skipped]]:
    """The images of a tar in order, and the members that are ignored; bytes between members are a lost image.

    Args:
        tar: the path of the tar.
        labelled: whether to read labels.

    Raises:
        InputError: the tar cannot be opened, is compressed, or has an invalid label.
    """
    images: dict[str, Member] = {}
    labels: dict[str, Label] = {}
    others: list[tuple[str, Skipped]] = []
    with reading("a tar", tar), open(tar, "rb") as stream:
        _refuse_compressed(tar, stream.read(8))
        for file in walk_tar(tar):
            if not file.name:
                place = f"byte {file.offset}"
                images[place] = replace(file, name=place)
                continue
            if any(part.startswith((".", "__")) and part != "." for part in file.name.split("/")):
                continue  # created by file managers
            key, name = _key(file.name), f"{tar}:{file.name}"
            suffix = Path(file.name).suffix.lower()
            if suffix in image_suffixes() or (not suffix and _is_image(file, stream)):
                if key in images:
                    reason = f"{images[key].name} has its name up to the first dot, and is used"
                    others.append(("", Skipped(name, reason)))
                images.setdefault(key, file)
            elif suffix in LABEL_SUFFIXES:
                others.append((key, Skipped(name, "no image has its name up to the first dot", "file")))
                if labelled:
                    label, reason = _read_label(file, stream, suffix, name)
                    if label is not None:
                        labels.setdefault(key, label)
                    elif reason:
                        others[-1] = ("", Skipped(name, reason, "file"))
            else:
                others.append((key, Skipped(name, not_an_image(file.name), "file")))
    labelled_images = [replace(image, label=labels.get(key)) for key, image in images.items()]
    return labelled_images, [one for key, one in others if key not in images]


def _is_image(file: Member, stream: IO[bytes]) -> bool:
    return not file.damage and can_be_opened(io.BufferedReader(Part(stream, file.offset, file.size)))


def _key(name: str) -> str:
    """What the members of one sample have in common: the folder, and the name up to its first dot."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _refuse_compressed(tar: str, start: bytes) -> None:
    for mark, kind in COMPRESSED.items():
        if start.startswith(mark):
            raise InputError(
                f"{tar} is compressed ({kind}), but images are read in place: unpack it into a tar or a folder"
            )


def _read_label(file: Member, stream: IO[bytes], suffix: str, name: str) -> tuple[Label, str]:
    """The label that a member gives, and, if there is none, why it cannot be read.

    Raises:
        InputError: the member can be read, but its label is invalid.
    """
    if file.damage or file.size > LARGEST_LABEL_FILE:
        return None, file.damage or f"{file.size} bytes; labels have at most {LARGEST_LABEL_FILE}"
    stream.seek(file.offset)
    text = stream.read(file.size).decode("utf-8", "replace")
    if suffix == ".cls":
        return read_label(text, name), ""
    try:
        values = json.loads(text)
    except Exception as error:  # deep nesting and endless numbers raise errors of their own
        return None, f"not JSON that can be read: {plain_reason(error)}"
    found = [values[key] for key in LABEL_NAMES if key in values] if isinstance(values, dict) else []
    return (read_label(found[0], name) if found else None), ""


def expand_pattern(pattern: str) -> list[str]:
    """The tars that a pattern means: one file, a glob, or braces such as {000..146} or {a,b}; none is repeated.

    Raises:
        InputError: there is nothing, one of the files named is missing, or a range is too long.
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
    parts: list[tuple[list[str] | range, str]] = []
    """The choices for each part of the text, and the format in which they are written."""
    for text, inner in re.findall(r"([^{]*)(?:\{([^{}]*)\})?", pattern):
        parts.append(([text], ""))
        if numbers := re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inner):
            first, last = numbers.groups()
            parts.append((range(int(first), int(last) + 1), f"0{len(first)}d"))
        elif inner:
            parts.append((inner.split(","), ""))
    if (count := math.prod(len(choices) for choices, _ in parts)) > MOST_TARS:
        raise InputError(
            f"{pattern!r} stands for {count} tars; at most {MOST_TARS} are accepted: give a glob or a folder"
        )
    texts = [[format(choice, spec) for choice in choices] for choices, spec in parts]
    return ["".join(choice) for choice in itertools.product(*texts)]
