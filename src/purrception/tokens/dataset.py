"""Reading token shards: each is memory-mapped when it is first needed, and verified once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from purrception.storage import sha256_of
from purrception.tokens.manifest import Manifest, Shard
from purrception.tokens.shards import map_shard
from purrception.tokens.store import TokenStore
from purrception.utils.errors import InputError

OPEN_AT_MOST = 64
"""How many shards are mapped at a time."""
VERIFIED_AT_ONCE = 16
"""A set of at most so many shards is verified when it is opened; otherwise each shard is when it is first read."""


class TokenDataset:
    """A folder of token shards, read through memory maps.

    Args:
        location: where ``manifest.json`` is: a folder, or any fsspec address.

    Raises:
        InputError: a shard is missing, truncated or altered, or has a label or code that the manifest does not
            allow; the message names it.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = location
        self._store = TokenStore(location)
        self.manifest = Manifest.read(location)
        self._ends = np.cumsum([shard.count for shard in self.manifest.shards])
        self._verified = np.zeros(len(self._ends), dtype=bool)
        self._lock = Lock()
        self._arrays = lru_cache(maxsize=OPEN_AT_MOST)(self._map)
        if len(self._ends) <= VERIFIED_AT_ONCE:
            for number in range(len(self._ends)):
                self._arrays(number)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of these numbers: indices, int64 ``[n, h, w]``, and labels, int64 ``[n]``."""
        shard_of = np.searchsorted(self._ends, numbers, side="right")
        indices = np.empty((len(numbers), *self.manifest.grid), dtype=np.int64)
        labels = np.empty(len(numbers), dtype=np.int64)
        for shard in np.unique(shard_of).tolist():
            selected = np.flatnonzero(shard_of == shard)
            local = numbers[selected] - (self._ends[shard] - self.manifest.shards[shard].count)
            arrays = self._arrays(shard)
            indices[selected] = arrays["indices"][local]
            labels[selected] = arrays["labels"][local]
        return indices, labels

    def _map(self, number: int) -> dict[str, np.ndarray]:
        """The mapped arrays of a shard, which is verified at its first use; one thread at a time."""
        with self._lock:
            shard, verify = self.manifest.shards[number], not self._verified[number]
            path = self._store.fetch(shard.file, sha256=shard.sha256 if verify else "", cached=True)
            if path is None:
                raise InputError(f"the shard {self.location}/{shard.file} is missing: encode the images again")
            if verify and not self._store.remote and sha256_of(path) != shard.sha256:
                raise InputError(
                    f"the shard {path} is truncated or altered ({path.stat().st_size} bytes, its SHA-256 is not "
                    "the manifest's): encode the images again"
                )
            arrays = map_shard(path)
            self._check(shard, path, arrays, verify)
            self._verified[number] = True
            return arrays

    def _check(self, shard: Shard, path: Path, arrays: dict[str, np.ndarray], verify: bool) -> None:
        for name, shape in (("indices", (shard.count, *self.manifest.grid)), ("labels", (shard.count,))):
            if arrays[name].shape != shape:
                raise InputError(f"{path} holds {name} of shape {arrays[name].shape}; the manifest says {shape}")
        limits = {"indices": self.manifest.codebook_size, "labels": max(self.manifest.num_classes, 1)}
        for name, limit in limits.items() if verify else ():
            if not 0 <= int(arrays[name].min()) <= int(arrays[name].max()) < limit:
                raise InputError(
                    f"{path} holds {name} from {arrays[name].min()} to {arrays[name].max()}; "
                    f"accepted are 0 to {limit - 1}"
                )
