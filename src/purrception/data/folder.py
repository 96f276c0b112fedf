"""A folder of images on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import can_be_opened, image_suffixes, not_an_image
from purrception.data.image_files import ImageFiles, expected_classes, hash_names, in_split
from purrception.data.labels import Label, class_names_of
from purrception.data.metadata import METADATA_FILES, find_metadata, read_metadata
from purrception.data.skip_report import Skipped
from purrception.storage import reading
from purrception.utils.errors import InputError

TOOL_FOLDERS = ("__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""How the names of folders begin that operating systems and tools create; a leading dot means hidden."""
TRAINING_NAMES = frozenset({"train", "training"})
HELD_OUT_NAMES = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"})


class FolderImages(ImageFiles):
    """A folder of images: one subfolder per class, or images alone for an unconditional model.

    Where there is a ``metadata.csv`` or ``metadata.jsonl`` at the top, it gives the labels instead, as in Hugging
    Face's imagefolder. With ``classes`` 0 every image below the folder is used, however deep. Links to folders are
    followed, but no folder is visited twice. Hidden files and folders of tools are ignored. A subfolder is a class
    if at least one image in it can be opened.

    Raises:
        InputError: the folder is missing or empty, mixes class folders with loose images, contains splits, or has
            another number of classes than asked for.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self.root = Path(config.root)
        if not config.root or not self.root.is_dir():
            raise InputError(
                f"no folder of images at {config.root!r}: give one with --data.root DIR "
                "(class subfolders, or images alone for an unconditional model)"
            )
        self._ignored: list[Skipped] = []
        labels = self._list()
        self._ignored.sort()
        if not labels:
            others = "".join(f", but other files such as {one.name}: {one.reason}" for one in self._ignored[:1])
            raise InputError(f"{self.root} holds no images, nor folders of images (.png, .jpg, …){others}")
        self.class_names = expected_classes(class_names_of(labels.values(), config.root), config)
        self._paths = [path for path in labels if in_split(path, split, config.test_fraction)]
        self._labels = [labels[path] for path in self._paths]
        if split == "train":
            self.ignored_files = self._ignored

    def _list(self) -> dict[str, Label]:
        """The label of each image by its path relative to the root, with / as separator, in order."""
        if self.config.classes == 0:
            return dict.fromkeys(sorted(self._walk("")))
        metadata = find_metadata(self.root)
        return self._list_classes() if metadata is None else self._list_rows(metadata)

    def _list_rows(self, metadata: Path) -> dict[str, Label]:
        labels, paths = read_metadata(metadata), sorted(self._walk(""))
        if labels is None:
            if any("/" in path for path in paths):
                raise InputError(
                    f"{metadata} has no column label, cls or class, while images lie in subfolders: remove it to "
                    "use these as classes, or use all images without classes (data.classes 0)"
                )
            return dict.fromkeys(paths)
        self._ignore(sorted(set(paths) - labels.keys()), f"no row of {metadata.name} names it")
        return {path: labels[path] for path in sorted(labels)}

    def _list_classes(self) -> dict[str, Label]:
        flat = list(self._walk("", deep=False))
        by_class = {}
        for entry in _visible(str(self.root)):
            if entry.is_dir() and (paths := sorted(self._walk(entry.name))):
                if any(can_be_opened(self.root / path) for path in paths):
                    by_class[entry.name] = paths
                else:
                    self._ignore(paths, "no image in its folder can be opened, so that it is not a class")
        names = {name.lower() for name in by_class}
        if (names & TRAINING_NAMES and names & HELD_OUT_NAMES) or (
            names and names <= TRAINING_NAMES | HELD_OUT_NAMES
        ):
            first = min(by_class, key=lambda name: name.lower() not in TRAINING_NAMES)
            raise InputError(
                f"{self.root} holds splits, not classes ({', '.join(by_class)}): give {self.root / first}, "
                "of which data.test_fraction is held out"
            )
        if by_class and flat:
            raise InputError(
                f"{self.root} holds class folders and {len(flat)} loose images such as {flat[0]!r}: move them "
                "into class folders, or use all images without classes (data.classes 0)"
            )
        return {path: name for name, paths in by_class.items() for path in paths} or dict.fromkeys(flat)

    def _ignore(self, paths: list[str], reason: str) -> None:
        self._ignored += [Skipped(str(self.root / path), reason) for path in paths]

    def _walk(self, below: str, *, deep: bool = True) -> Iterator[str]:
        """The paths of the images in a folder and, if ``deep``, below it; no folder is visited twice."""
        seen = {os.path.realpath(self.root)} if below else set()
        pending = [below]
        while pending:
            prefix = pending.pop()
            real = os.path.realpath(self.root / prefix)
            if real in seen:
                continue
            seen.add(real)
            for entry in _visible(str(self.root / prefix)):
                path = f"{prefix}/{entry.name}".lstrip("/")
                if entry.is_dir():
                    pending += [path] if deep else []
                elif _is_image(entry):
                    yield path
                elif prefix or entry.name not in METADATA_FILES:
                    reason = not_an_image(entry.name)
                    self._ignored.append(Skipped(str(self.root / path), reason, "file"))

    @cached_property
    def listing(self) -> str:
        """A hash of the paths, in order."""
        return hash_names(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """The path of image ``index``."""
        return str(self.root / self._paths[index])

    def read(self, index: int) -> tuple[Path, int]:
        """The path of image ``index`` and its label."""
        return self.root / self._paths[index], self.number_of(self._labels[index], index)


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden files and folders of tools."""
    with reading("a folder", folder), os.scandir(folder) as entries:
        return sorted(
            (
                entry
                for entry in entries
                if not entry.name.startswith(".") and not (entry.name.startswith(TOOL_FOLDERS) and entry.is_dir())
            ),
            key=lambda entry: entry.name,
        )


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether the suffix says that a file is an image, or, without a suffix, its content does.

    A broken link is reported when it is read.
    """
    suffix = Path(entry.name).suffix.lower()
    return suffix in image_suffixes() if suffix else can_be_opened(Path(entry.path))
