"""``manifest.json``, which describes a folder of token shards."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from purrception.storage import plain_name, read_json, write_file
from purrception.tokens.store import TokenStore
from purrception.utils.errors import InputError

MANIFEST_FILE = "manifest.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_GRID, LARGEST_CODEBOOK, LARGEST_DIM, MOST_CLASSES = 2**12, 2**24, 2**14, 2**17
"""The largest side of the grid, number of codes, dimension of a code and number of classes of a valid manifest."""


@dataclass(frozen=True)
class Standardisation:
    """The affine map that gives the latents zero mean per channel and unit variance overall.

    A single standard deviation for all channels preserves the ratios of distances between codes.
    """

    mean: tuple[float, ...]
    """The mean of each of the D channels over all positions of the training images."""
    std: float
    """The root mean square deviation over all channels and positions."""

    def __post_init__(self) -> None:
        """Refuse values that no codes can have: the tokenizer or the file is damaged."""
        if not all(map(math.isfinite, self.mean)) or not 0 < self.std < math.inf:
            raise InputError(
                f"latents are standardised by finite means and a positive deviation; given {list(self.mean)} and "
                f"{self.std}"
            )

    def apply(self, codebook: Tensor) -> Tensor:
        """Codes ``[K, D]`` → standardised codes, float32 ``[K, D]``.

        Raises:
            InputError: the codes have another dimension.
        """
        if len(self.mean) != codebook.shape[1]:
            raise InputError(
                f"the latents have {len(self.mean)} channels, and the tokenizer's codes {codebook.shape[1]}: "
                "these tokens were made with another tokenizer"
            )
        mean = torch.tensor(self.mean, dtype=torch.float64, device=codebook.device)
        return ((codebook.double() - mean) / self.std).float()

    @classmethod
    def of(cls, codebook: Tensor, counts: np.ndarray) -> Self:
        """The statistics of all codes that occur, from the counts ``[K]`` of each code.

        Raises:
            InputError: only one code occurs.
        """
        shares = torch.from_numpy(counts / counts.sum()).double()[:, None]
        codes = codebook.double().cpu()
        mean = (shares * codes).sum(0)
        variance = float((shares * (codes - mean).square()).sum(0).mean())
        if variance < 1e-12:
            raise InputError("all images have the same single code: the tokenizer has collapsed; train it longer")
        return cls(mean=tuple(mean.tolist()), std=variance**0.5)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of token shards."""

    file: str
    """The name of the file in the folder, never a path."""
    count: int
    """The number of rows."""
    sha256: str
    """The SHA-256 of the file, hexadecimal."""

    def __post_init__(self) -> None:
        """Refuse a name that is a path, an empty shard, and an invalid digest."""
        plain_name(self.file, MANIFEST_FILE)
        if not 1 <= self.count < 2**40 or not SHA256.fullmatch(self.sha256):
            raise InputError(
                f"a shard has at least one row and a SHA-256 in hexadecimal; given {self.count} and "
                f"{self.sha256[:80]!r}"
            )


@dataclass(frozen=True)
class Manifest:
    """What a folder of token shards contains, as ``manifest.json`` stores it."""

    codebook_size: int
    """K, the number of codes."""
    codebook_dim: int
    """D, the dimension of a code."""
    grid: tuple[int, int]
    """The height and width of the grid of codes."""
    class_names: tuple[str, ...]
    """The names of the classes by label; empty without classes."""
    standardisation: Standardisation
    """The map that standardises the latents of the training images."""
    tokenizer_hash: str
    """The fingerprint of the tokenizer."""
    split: str
    """The name of the split."""
    flips: bool
    """Whether each image is followed by its mirror image, or random crops are mirrored at random."""
    shards: tuple[Shard, ...]
    """The files, in order."""
    views: int = 0
    """The number of random crops of each image; 0 for its centre."""

    def __post_init__(self) -> None:
        """Refuse implausible sizes, before anything of that size is allocated."""
        sizes = [
            ("codebook_size", self.codebook_size, LARGEST_CODEBOOK),
            ("codebook_dim", self.codebook_dim, LARGEST_DIM),
            *(("a side of the grid", side, LARGEST_GRID) for side in self.grid),
            ("the number of shards", len(self.shards), 2**20),
        ]
        for name, given, most in sizes:
            if not 1 <= given <= most:
                raise InputError(f"{name} lies in 1 to {most}; given {given}")
        if self.views < 0 or self.num_classes > MOST_CLASSES:
            raise InputError(
                f"views are at least 0 and class names at most {MOST_CLASSES}; given {self.views} and "
                f"{self.num_classes}"
            )
        if len(self.standardisation.mean) != self.codebook_dim:
            raise InputError(
                f"codes have codebook_dim channels and as many means; given {self.codebook_dim} and "
                f"{len(self.standardisation.mean)}"
            )
        if len({shard.file for shard in self.shards}) < len(self.shards):
            raise InputError("every shard has a file of its own; one is named twice")

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without classes."""
        return len(self.class_names)

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read the manifest of a folder, local or at any fsspec address.

        Raises:
            InputError: it is missing or not a manifest.
        """
        path = TokenStore(folder).fetch(MANIFEST_FILE)
        if path is None:
            raise InputError(f"no token shards in {folder}: {MANIFEST_FILE} is missing")
        return read_json(path, cls, "a token manifest", "encode the images again")

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` to a folder.

        Raises:
            InputError: the disk is full.
        """
        write_file(folder / MANIFEST_FILE, json.dumps(asdict(self), indent=2))
