"""What a folder of token shards says about itself: ``manifest.json``."""

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
"""Sites along one side, codes, their dimensions, and classes beyond which a manifest is damaged."""


@dataclass(frozen=True)
class Standardisation:
    """The affine map that gives the latents zero mean per channel and unit variance overall.

    One deviation for all channels keeps the shape of distances between codes.
    """

    mean: tuple[float, ...]
    """Mean of each channel over all sites of the training images, length D."""
    std: float
    """Root mean square deviation over all channels and sites."""

    def __post_init__(self) -> None:
        """Refuse figures that no codes have: the tokenizer or the file is damaged."""
        if not all(map(math.isfinite, self.mean)) or not 0 < self.std < math.inf:
            raise InputError(
                f"latents are standardised by finite means and a positive deviation; given {list(self.mean)} and "
                f"{self.std}"
            )

    def apply(self, codebook: Tensor) -> Tensor:
        """Codes ``[K, D]`` → standardised codes, float32 ``[K, D]``."""
        if len(self.mean) != codebook.shape[1]:
            raise InputError(
                f"the latents have {len(self.mean)} channels, and the tokenizer's codes {codebook.shape[1]}: "
                "these tokens were made with another tokenizer"
            )
        mean = torch.tensor(self.mean, dtype=torch.float64, device=codebook.device)
        return ((codebook.double() - mean) / self.std).float()

    @classmethod
    def of(cls, codebook: Tensor, counts: np.ndarray) -> Self:
        """Statistics of the embeddings of all codes that occur, from the histogram of codes."""
        shares = torch.from_numpy(counts / counts.sum()).double()[:, None]
        codes = codebook.double().cpu()
        mean = (shares * codes).sum(0)
        variance = float((shares * (codes - mean).square()).sum(0).mean())
        if variance < 1e-12:
            raise InputError(
                "all images map to one and the same code: the tokenizer has collapsed; train it longer"
            )
        return cls(mean=tuple(mean.tolist()), std=variance**0.5)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a token set."""

    file: str
    """Its name in the folder, never a path."""
    count: int
    """Rows."""
    sha256: str

    def __post_init__(self) -> None:
        """Refuse a name that leads elsewhere, and a shard of nothing."""
        plain_name(self.file, MANIFEST_FILE)
        if not 1 <= self.count < 2**40 or not SHA256.fullmatch(self.sha256):
            raise InputError(
                f"a shard has at least one row and a SHA-256 in hexadecimal; given {self.count} and "
                f"{self.sha256[:80]!r}"
            )


@dataclass(frozen=True)
class Manifest:
    """What a folder of token shards holds. ``manifest.json`` is this record."""

    codebook_size: int
    codebook_dim: int
    grid: tuple[int, int]
    """(h, w), sites."""
    class_names: tuple[str, ...]
    """Names by label; empty when unconditional."""
    standardisation: Standardisation
    tokenizer_hash: str
    split: str
    flips: bool
    """Whether each image is followed by its mirror image, or random crops are mirrored by chance."""
    shards: tuple[Shard, ...]
    views: int = 0
    """Random crops that stand for each image; 0: its centre."""

    def __post_init__(self) -> None:
        """Refuse sizes that no tokens have, before anything is made as large as they say."""
        sizes = {
            "codebook_size": (self.codebook_size, LARGEST_CODEBOOK),
            "codebook_dim": (self.codebook_dim, LARGEST_DIM),
            "a side of the grid": (max(self.grid, key=abs), LARGEST_GRID),
            "the number of shards": (len(self.shards), 2**20),
        }
        for name, (given, most) in sizes.items():
            if not 1 <= given <= most:
                raise InputError(f"{name} lies in 1 to {most}; given {given}")
        if min(self.grid) < 1 or self.views < 0 or self.num_classes > MOST_CLASSES:
            raise InputError(
                f"sides of the grid are at least 1, views at least 0 and class names at most {MOST_CLASSES}; "
                f"given {list(self.grid)}, {self.views} and {self.num_classes}"
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
        """Number of classes; 0 when unconditional."""
        return len(self.class_names)

    @classmethod
    def read(cls, folder: Path | str, cache: Path | None = None) -> Self:
        """Read ``manifest.json`` of a folder, local or at any fsspec address.

        Raises:
            InputError: it is missing or not a manifest.
        """
        path = TokenStore(folder, cache).fetch(MANIFEST_FILE)
        if path is None:
            raise InputError(f"no token shards in {folder}: {MANIFEST_FILE} is missing")
        return read_json(path, cls, "a token manifest", "encode the images again")

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``; it appears whole or not at all."""
        write_file(folder / MANIFEST_FILE, json.dumps(asdict(self), indent=2).encode())
