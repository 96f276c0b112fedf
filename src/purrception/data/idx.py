"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST as they are distributed."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from purrception.data.config import MODES, DataConfig, Split
from purrception.data.image_files import expected_classes, in_split
from purrception.data.labels import class_names_of
from purrception.data.transforms import pad_if_small, pil_to_array
from purrception.storage import reading
from purrception.utils.errors import InputError

IMAGES_FILE = re.compile(r"(?P<set>.*?)(?P<split>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")
"""Names of files of images; EMNIST's begin with the name of one of its sets, such as emnist-letters."""
UNSIGNED_BYTES = 0x08
"""The type of the values by its number in an IDX header, the only one accepted."""
LARGEST = 2**31
"""The most bytes of an array; EMNIST's largest set has 547 million."""


class IdxImages:
    """IDX files in a folder: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-…``, gzipped or not.

    The files of test images are the held-out split; without them a share ``test_fraction`` of the training images
    is. EMNIST's images, which are stored transposed, are set upright, and its ``…-mapping.txt`` names the classes.

    Raises:
        InputError: the files are missing, damaged or of another kind, or hold several sets.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        self._config = config
        found = _find(config.root)
        own = found.get("test")
        path = own if own is not None and split == "test" else found["train"]
        self._name = path.name
        self._images = read_idx(path, 3)
        if path.name.startswith("emnist"):
            self._images = self._images.transpose(0, 2, 1)
        count = len(self._images)
        self._rows = np.arange(count)
        if own is None:
            kept = [row for row in range(count) if in_split(f"row {row}", split, config.test_fraction)]
            self._rows = np.asarray(kept, dtype=np.int64)
        labels = _labels_beside(path, count)
        mapping = _mapping_beside(path)
        if labels is None or config.classes == 0:
            self.class_names: tuple[str, ...] = expected_classes((), config)
            self.labels = np.zeros(count, dtype=np.int64)
        elif mapping:
            numbers = sorted(mapping)
            if unknown := sorted(set(np.unique(labels).tolist()) - set(numbers)):
                raise InputError(
                    f"{path.parent} holds the label {unknown[0]}, which its mapping.txt does not name"
                )
            self.class_names = expected_classes(tuple(mapping[number] for number in numbers), config)
            self.labels = np.searchsorted(numbers, labels)
        else:
            # both splits have the classes of the training images, should one not occur among the others
            counted = labels if path == found["train"] else _labels_beside(found["train"], None)
            known = labels if counted is None else np.concatenate([labels, counted])
            self.class_names = expected_classes(class_names_of(np.unique(known).tolist(), config.root), config)
            self.labels = labels.astype(np.int64)

    @cached_property
    def listing(self) -> str:
        """A hash of the pixels and the rows of this split."""
        digest = hashlib.blake2b(np.ascontiguousarray(self._images).data, digest_size=16)
        digest.update(self._rows.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture, label = self.pil_image(index)
        return pil_to_array(picture, self._config.image_size, self._config.channels), label

    def name(self, index: int) -> str:
        """The file and the row in it."""
        return f"{self._name}[{self._rows[index]}]"

    def pil_image(self, index: int) -> tuple[Image.Image, int]:
        """Image ``index`` in its original pixels, amid black unless it is to be enlarged, and its label."""
        row = int(self._rows[index])
        picture = Image.fromarray(np.ascontiguousarray(self._images[row])).convert(MODES[self._config.channels])
        return pad_if_small(picture, self._config), int(self.labels[row])


@dataclass(frozen=True)
class _Found:
    """A file of images by the set it belongs to."""

    set: str
    split: Split
    path: Path


def is_idx(folder: Path) -> bool:
    """Whether a folder holds training images as an IDX file."""
    return any(folder.glob("*train-images[-.]idx3-ubyte*"))


def _find(root: str) -> dict[Split, Path]:
    """The file of each split in a folder, or of one set in it: ``DIR/emnist-letters``."""
    given = Path(root)
    folder, chosen = (given, "") if given.is_dir() else (given.parent, given.name)
    if not root or not folder.is_dir():
        raise InputError(
            f"no IDX files at {root!r}: give their folder with --data.root DIR; Debian's package "
            "dataset-fashion-mnist installs Fashion-MNIST to /usr/share/datasets/fashion-mnist"
        )
    files = [one for one in _files(folder) if not chosen or one.set.rstrip("-_.") == chosen]
    sets = sorted({one.set for one in files if one.split == "train"})
    if not sets:
        raise InputError(
            f"{root} holds no IDX file of training images: accepted names are train-images-idx3-ubyte and "
            "t10k-images-idx3-ubyte, also with .gz, and with the name of a set before them"
        )
    if len(sets) > 1:
        names = [str(folder / one.rstrip("-_.")) for one in sets]
        raise InputError(
            f"{root} holds {len(sets)} sets of images: give one with --data.root {' or '.join(names)}"
        )
    return {one.split: one.path for one in files if one.set == sets[0]}


def _files(folder: Path) -> list[_Found]:
    """The files of images in a folder; of a file and its gzipped copy, the former comes last."""
    found = []
    with reading("a folder", folder):
        for path in sorted(folder.iterdir(), reverse=True):
            if (match := IMAGES_FILE.fullmatch(path.name)) and path.is_file():
                found.append(_Found(match["set"], "train" if match["split"] == "train" else "test", path))
    return found


def _labels_beside(images: Path, count: int | None) -> np.ndarray | None:
    """The labels of a file of images, of which there must be ``count``; none where there is no such file."""
    plain = images.name.removesuffix(".gz").replace("-images", "-labels").replace("idx3", "idx1")
    path = next((path for name in (plain, f"{plain}.gz") if (path := images.with_name(name)).is_file()), None)
    if path is None:
        return None
    labels = read_idx(path, 1)
    if count is not None and len(labels) != count:
        raise InputError(f"{path} holds {len(labels)} labels, and {images.name} {count} images: get both again")
    return labels


def _mapping_beside(images: Path) -> dict[int, str]:
    """EMNIST's names of classes: lines of a label and the code points of its characters; empty without them."""
    match = IMAGES_FILE.fullmatch(images.name)
    path = images.with_name(f"{match['set'] if match else ''}mapping.txt")
    if not path.is_file():
        return {}
    with reading("a mapping of labels to characters", path):
        rows = [
            list(map(int, line.split())) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        return {label: "".join(map(chr, points)) for label, *points in rows}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not, as uint8 of so many dimensions.

    The format is that of MNIST's page: two zero bytes, the type, the number of dimensions, each dimension as a
    big-endian uint32, and the values in C order. The array is shared: do not write to it.

    Raises:
        InputError: the header is another one, or the file does not hold exactly the values that it announces.
    """
    with reading("an IDX file", path, "get it again"):
        state = path.stat()
        return _read(path, dimensions, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)  # both splits with their labels; a source is opened many times in a run
def _read(path: Path, dimensions: int, _changed: int, _size: int) -> np.ndarray:
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as stream:
        header = stream.read(4 + 4 * dimensions)
        if header[:3] != bytes([0, 0, UNSIGNED_BYTES]) or header[3:4] != bytes([dimensions]):
            raise ValueError(
                f"it begins with {header[:4].hex(' ') or 'nothing'}; unsigned bytes in {dimensions} "
                f"dimension{'s' * (dimensions > 1)} begin with 00 00 08 0{dimensions}"
            )
        if len(header) < 4 + 4 * dimensions:
            raise ValueError("it ends within its header")
        shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
        size = int(np.prod(shape, dtype=object))
        if not 0 < size <= LARGEST:
            raise ValueError(
                f"its header announces {'×'.join(map(str, shape))} values; at most {LARGEST} are accepted"
            )
        content = stream.read(size + 1)
    if len(content) != size:
        has = "more" if len(content) > size else f"only {len(content)}"
        raise ValueError(f"its header announces {'×'.join(map(str, shape))} = {size} bytes, and it holds {has}")
    return np.frombuffer(content, np.uint8).reshape(shape)
