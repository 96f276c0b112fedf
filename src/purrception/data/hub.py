"""Data sets on the Hugging Face hub, or saved by its library ``datasets``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from purrception.data.config import DataConfig, Split
from purrception.data.decoding import UnreadableImageError
from purrception.data.image_files import ImageFiles, expected_classes, hash_names, in_split
from purrception.data.labels import LABEL_NAMES, class_names_of, read_label
from purrception.storage import plain_reason, reading
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import require

SAVED_MARKS = ("dataset_info.json", "dataset_dict.json")


class HubImages(ImageFiles):
    """A hub data set by name, or a folder that ``save_to_disk`` wrote; its rows stay on disk.

    The first column of images is used, and the first column of class labels or else the one named label, cls or
    class, which is read by :func:`read_label`. Held-out images come from ``hub_test_split``, or else are a share
    of ``hub_split``; both have the classes of the latter.

    Raises:
        InputError: ``datasets`` is not installed, there is no such data set or column, or a label is invalid.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config)
        self._rows = _open(config, config.hub_split)
        self._image, self._label = _columns(self._rows, config.root)
        self.class_names = expected_classes(self._find_classes(), config)
        if config.hub_test_split and split == "test":
            self._rows = _open(config, config.hub_test_split)
            self._image, self._label = _columns(self._rows, config.root)
        selected = [
            row
            for row in range(len(self._rows))
            if config.hub_test_split or in_split(f"row {row}", split, config.test_fraction)
        ]
        self._selected = np.asarray(selected, dtype=np.int64)

    def _find_classes(self) -> tuple[str, ...]:
        if not self._label or self.config.classes == 0:
            return ()
        feature, where = self._rows.features[self._label], f"the column {self._label} of {self.config.root}"
        if names := getattr(feature, "names", None):
            return tuple(names)
        plain = type(feature).__name__ == "Value"  # Arrow can list the distinct values of plain columns only
        with reading("a column of labels", where):
            values = self._rows.unique(self._label) if plain else self._rows[self._label]
            return class_names_of((read_label(value, where) for value in values), where)

    @cached_property
    def listing(self) -> str:
        """A hash of the data set's fingerprint and of the rows in this split."""
        return hash_names([str(self._rows._fingerprint), *map(str, self._selected)])

    def __len__(self) -> int:
        return len(self._selected)

    def name(self, index: int) -> str:
        """The data set and the row."""
        return f"{self.config.root}[{self._selected[index]}]"

    def read(self, index: int) -> tuple[bytes | Path, int]:
        """The content or path of image ``index``, and its label."""
        try:
            row = self._rows[int(self._selected[index])]
        except Exception as error:  # damaged files raise many kinds of errors in Arrow
            raise UnreadableImageError(self.name(index), plain_reason(error)) from error
        image, label = row[self._image], 0
        if image is None:
            raise UnreadableImageError(self.name(index), "the row has no image")
        if self.class_names:
            found = read_label(row[self._label], self.name(index))
            if isinstance(found, int) and type(self._rows.features[self._label]).__name__ == "ClassLabel":
                found = self.class_names[found] if found < len(self.class_names) else None
            label = self.number_of(found, index)
        content, path = image.get("bytes"), image.get("path")
        if content is None and not path:
            raise UnreadableImageError(self.name(index), "the row has neither an image's content nor its path")
        return content if content is not None else Path(path), label


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` saved this folder."""
    return any((folder / mark).is_file() for mark in SAVED_MARKS)


def _open(config: DataConfig, split: str) -> Any:
    """The rows of a split of the data set, with images left encoded."""
    datasets = require("datasets", "the data source hub")
    try:
        if is_saved(Path(config.root)):
            rows = datasets.load_from_disk(config.root)
            rows = rows[split] if isinstance(rows, datasets.DatasetDict) else rows
        else:
            name, _, subset = config.root.partition(":")
            rows = datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:  # from the network, the file system or the parser
        raise InputError(
            f"cannot open the data set {config.root!r}, split {split!r}: {in_words(error)}"
        ) from error
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _columns(rows: Any, root: str) -> tuple[str, str]:
    """The names of the image column and of the label column, which is empty where there is none."""
    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    if not images:
        raise InputError(f"{root} has no column of images; it has {', '.join(kinds)}")
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    return images[0], (labels + [column for column in LABEL_NAMES if column in kinds] + [""])[0]
