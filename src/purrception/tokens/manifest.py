"""What a folder of token shards says about itself: ``manifest.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from purrception.errors import InputError
from purrception.storage import write_file
from purrception.tokens.store import TokenStore

MANIFEST_FILE = "manifest.json"


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
    count: int
    sha256: str


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
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path} is not a token manifest: {where} {first['msg']}") from error

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``; it appears whole or not at all."""
        write_file(folder / MANIFEST_FILE, json.dumps(asdict(self), indent=2).encode())
