"""A folder of images on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import IMAGE_SUFFIXES
from purrception.data.encoded import EncodedImages, expected_classes, hash_names, in_split
from purrception.errors import InputError


class FolderImages(EncodedImages):
    """A folder of images: one subfolder per class, or images alone for an unconditional model.

    With ``classes`` 0 every image below the folder counts, however deep. Links to folders are followed, each
    folder is visited once, and a loop of links ends.

    Raises:
        InputError: the folder is missing or empty, mixes class folders with loose images, or holds another
            number of classes than asked for.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self.root = Path(config.root)
        if not config.root or not self.root.is_dir():
            raise InputError(
                f"no folder of images at {config.root!r}: give one with --data.root DIR "
                "(class subfolders, or images alone for an unconditional model)"
            )
        paths, classes = self._list_unlabelled() if config.classes == 0 else self._list()
        self.class_names = expected_classes(classes, config)
        label_of = {name: label for label, name in enumerate(self.class_names)}
        self._paths = [path for path in paths if in_split(path, split, config.test_fraction)]
        self._labels = [label_of.get(path.partition("/")[0], 0) for path in self._paths]

    def _list_unlabelled(self) -> tuple[list[str], tuple[str, ...]]:
        return self._some(sorted(_images_below(str(self.root), ""))), ()

    def _list(self) -> tuple[list[str], tuple[str, ...]]:
        """Paths below the root, with / between their parts, and the class folders."""
        entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        flat = [entry.name for entry in entries if _is_image(entry)]
        by_class = {
            entry.name: sorted(_images_below(entry.path, f"{entry.name}/", str(self.root)))
            for entry in entries
            if entry.is_dir()
        }
        classes = tuple(name for name, paths in by_class.items() if paths)
        if classes and flat:
            raise InputError(
                f"{self.root} holds class folders and {len(flat)} loose images such as {flat[0]!r}: move them "
                "into class folders, or take all images without classes (data.classes 0)"
            )
        return self._some(flat or [path for name in classes for path in by_class[name]]), classes

    def _some(self, paths: list[str]) -> list[str]:
        if not paths:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"{self.root} holds no images, nor folders of images ({known})")
        return paths

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
        return self.root / self._paths[index], self._labels[index]


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a name says image; a link that leads nowhere is reported when it is read."""
    return Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir()


def _images_below(folder: str, prefix: str, *visited: str) -> Iterator[str]:
    """Image paths below ``folder``, each behind ``prefix``; no folder is entered twice."""
    seen = {os.path.realpath(path) for path in visited}
    pending = [(folder, prefix)]
    while pending:
        folder, prefix = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True):
            if _is_image(entry):
                yield prefix + entry.name
            elif entry.is_dir():
                pending.append((entry.path, f"{prefix}{entry.name}/"))
