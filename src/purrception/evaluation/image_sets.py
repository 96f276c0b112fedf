"""Sets of images, read a few at a time: a split of a data source, a folder, codes, an ``.npz``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from purrception.data import (
    DataConfig,
    ImageSource,
    Split,
    UnreadableImageError,
    ignored_files,
    open_images,
    spread_rows,
)
from purrception.data.decoding import LARGEST_IMAGE
from purrception.data.folder import FolderImages
from purrception.data.labels import MOST_CLASSES, class_names_of
from purrception.evaluation.extractors import is_grey
from purrception.evaluation.npz import Array, open_npz, read_npz
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.utils.errors import InputError

NPZ_IMAGES, NPZ_LABELS = "arr_0", "arr_1"
"""The names of ADM's layout: uint8 ``[n, H, W, 3]``, and where there are classes their labels ``[n]``."""

READ_TOGETHER = 64


class ImageSet(Protocol):
    """A finite, ordered set of images, read on demand."""

    class_names: tuple[str, ...]
    """Names by label; empty without classes."""

    @property
    def grey(self) -> bool:
        """Whether none of the images has any colour."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """The name of image ``index``, for people."""
        ...

    def read(self, rows: range) -> Sequence[tuple[np.ndarray, int] | UnreadableImageError]:
        """Images as (uint8 ``[H, W, C]``, label), label 0 without classes; or why one cannot be read."""
        ...


class SourceImages:
    """A split of a data set as training sees it: centre crops of the size that the configuration says."""

    def __init__(self, source: ImageSource, data: DataConfig, rows: np.ndarray, title: str) -> None:
        self.source, self.data, self.rows, self.title = source, data, rows, title
        self.class_names = tuple(source.class_names)
        self.ignored_files = ignored_files(source)

    @property
    def grey(self) -> bool:
        """Whether the images are read in one channel."""
        return self.data.channels == 1

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The path where there is one."""
        row = int(self.rows[index])
        return self.source.name(row) if hasattr(self.source, "name") else f"{self.title} {row}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int] | UnreadableImageError]:
        """Images ``rows`` of the set."""
        found: list[tuple[np.ndarray, int] | UnreadableImageError] = []
        for row in rows:
            try:
                found.append(self._image(int(self.rows[row])))
            except UnreadableImageError as error:
                found.append(error)
        return found

    def _image(self, row: int) -> tuple[np.ndarray, int]:
        return self.source[row]


def split_images(data: DataConfig, split: Split, count: int | None = None) -> SourceImages:
    """The real images of a split; ``count`` of them, drawn by a key, where it is given.

    Raises:
        InputError: there are fewer than two.
    """
    source = open_images(data, split)
    if len(source) < 2:
        raise InputError(f"the {split} split holds {len(source)} images; at least 2 are needed")
    rows = np.arange(len(source)) if count is None else spread_rows(len(source), count)
    return SourceImages(source, data, rows, f"image of the {split} split")


class FolderOfImages(SourceImages):
    """A folder of images as they are, in RGB: class subfolders, or images alone; none is resized or cropped.

    Raises:
        InputError: there is no such folder, or no image in it.
    """

    def __init__(self, root: Path) -> None:
        data = DataConfig("folder", str(root), image_size=0, channels=3, test_fraction=0)
        source = FolderImages(data, "train")
        super().__init__(source, data, np.arange(len(source)), "image")

    @cached_property
    def grey(self) -> bool:
        """Whether none of the images has any colour; they are read up to the first that has."""
        return _without_colour(self)

    def _image(self, row: int) -> tuple[np.ndarray, int]:
        picture, label = self.source.pil_image(row)
        return np.asarray(picture, dtype=np.uint8), label


class CodeImages:
    """Codes, decoded on demand.

    Args:
        count: of images.
        read_codes: row numbers → (indices, int64 ``[n, h, w]``; labels, int64 ``[n]``).
        tokenizer: decodes them.
        class_names: names by label.
        title: what a row is called in messages.
        truncate: round decoded pixel values down instead of to the nearest.
    """

    def __init__(
        self,
        count: int,
        read_codes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        tokenizer: VQTokenizer,
        class_names: tuple[str, ...] = (),
        title: str = "generated image",
        *,
        truncate: bool = False,
    ) -> None:
        self.count, self.read_codes, self.tokenizer = count, read_codes, tokenizer
        self.class_names, self.title, self.truncate = class_names, title, truncate
        self.grey = tokenizer.image_channels == 1

    @classmethod
    def of_tokens(cls, tokens: TokenDataset, tokenizer: VQTokenizer) -> Self:
        """The images of token shards.

        Raises:
            InputError: another tokenizer made them.
        """
        if tokens.manifest.tokenizer_hash != tokenizer.fingerprint:
            raise InputError(
                f"the token shards in {tokens.location} are of the tokenizer "
                f"{tokens.manifest.tokenizer_hash[:12]}…; this run's is {tokenizer.fingerprint[:12]}…: encode the "
                f"images with it"
            )
        names = tuple(tokens.manifest.class_names)
        return cls(len(tokens), tokens.rows, tokenizer, names, f"row of {tokens.location}")

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The image's number."""
        return f"{self.title} {index}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int]]:
        """Rows, decoded."""
        indices, labels = self.read_codes(np.asarray(rows))
        images = self.tokenizer.decode_images(torch.from_numpy(indices), truncate=self.truncate)
        return list(zip(images, labels.tolist(), strict=True))


class NpzImages:
    """The images of an ``.npz`` in ADM's layout, read from the file a few at a time.

    Raises:
        InputError: the file holds no images, or is damaged.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_npz(path) as npz:
            if NPZ_IMAGES not in npz.names:
                raise InputError(f"{path} holds no {NPZ_IMAGES}: expected are images, uint8 [n, H, W, 3]")
            self._array = npz.look(NPZ_IMAGES)
            labelled = NPZ_LABELS in npz.names
        _check_images(self._array, path)
        self._labels: np.ndarray | None = None
        if labelled:
            self._labels, self.class_names = _read_labels(path, len(self))

    @cached_property
    def grey(self) -> bool:
        """Whether none of the images has any colour; they are read up to the first that has."""
        return self._array.shape[-1] == 1 or _without_colour(self)

    def __len__(self) -> int:
        return self._array.shape[0]

    def name(self, index: int) -> str:
        """The image's row."""
        return f"image {index} of {self.path}"

    def read(self, rows: range) -> list[tuple[np.ndarray, int]]:
        """Rows of ``arr_0``.

        Raises:
            InputError: the file is cut off or damaged.
        """
        size = math.prod(self._array.shape[1:])
        with open_npz(self.path) as npz:
            content = npz.read(self._array, rows.start * size, len(rows) * size)
        images = np.frombuffer(content, dtype=np.uint8).reshape(len(rows), *self._array.shape[1:])
        labels = [0] * len(rows) if self._labels is None else self._labels[rows.start : rows.stop].tolist()
        return list(zip(images, labels, strict=True))


def _check_images(array: Array, path: Path) -> None:
    shape = array.shape
    if len(shape) != 4 or array.dtype != np.uint8 or array.fortran or shape[-1] not in (1, 3) or 0 in shape[1:]:
        raise InputError(
            f"{path} holds {NPZ_IMAGES} of shape {list(shape)} and type {array.dtype}; expected are images, uint8 "
            "[n, H, W, 3]"
        )
    if shape[1] * shape[2] > LARGEST_IMAGE:
        raise InputError(
            f"{path} holds images of {shape[2]}×{shape[1]} pixels; at most {LARGEST_IMAGE / 1e6:.0f} megapixels "
            "are taken: scale them down"
        )


def _without_colour(images: ImageSet) -> bool:
    for start in range(0, len(images), READ_TOGETHER):
        for found in images.read(range(start, min(start + READ_TOGETHER, len(images)))):
            if not isinstance(found, UnreadableImageError) and not is_grey(found[0]):
                return False
    return True


def _read_labels(path: Path, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of an ``.npz``, int64 ``[n]``, and the names of classes: whole numbers, or plainly one-hot."""
    given = read_npz(path, [NPZ_LABELS])[1][NPZ_LABELS]
    if given.dtype.kind in "iuf" and len(given.shape) in (1, 2) and len(given) == count and given.size:
        if (
            given.ndim == 2
            and 1 < given.shape[1] <= MOST_CLASSES
            and set(np.unique(given).tolist()) <= {0, 1}
            and (given.sum(1) == 1).all()
        ):
            return given.argmax(axis=1), tuple(map(str, range(given.shape[1])))
        if given.ndim == 1 and (given >= 0).all() and (given == np.floor(given)).all():
            if not np.isfinite(given).all():
                raise InputError(f"{path} holds {NPZ_LABELS} with infinite values: correct it")
            names = class_names_of(map(int, np.unique(given)), f"{NPZ_LABELS} of {path}")
            return given.astype(np.int64), names
    raise InputError(
        f"{path} holds {NPZ_LABELS} of shape {list(given.shape)} and type {given.dtype} for {count} images; "
        f"accepted are their labels, [{count}], whole numbers from 0, or one-hot, [{count}, classes]: correct it, "
        "or leave it out for images without classes"
    )
