"""Token shards: images as codebook indices on disk, memory-mapped by the training loop.

A set of shards is a folder with ``manifest.json`` and ``shard-00000.safetensors``, … Each shard holds
``indices`` (uint16 up to K = 65536, else int32; ``[n, h, w]``) and ``labels`` (int32 ``[n]``): two bytes a
code, where float32 embeddings would take 4·D.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save_file
from torch import Tensor

from purrception.data import ImageSource, images_to_tensor
from purrception.errors import InputError
from purrception.keyed_rng import Stream, keyed_rng
from purrception.progress import ProgressBar
from purrception.tokenizers import Tokenizer

MANIFEST_FILE = "manifest.json"
SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "I32": np.dtype("<i4")}


@dataclass(frozen=True)
class Standardisation:
    """The affine map that gives the latents zero mean per channel and unit variance overall.

    One deviation for all channels keeps the shape of distances between codes.
    """

    mean: tuple[float, ...]
    """Mean of each channel over all sites of the training images, length D."""
    std: float
    """Root mean square deviation over all channels and sites."""

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


@dataclass(frozen=True)
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
    """Whether each image is followed by its mirror image."""
    shards: tuple[Shard, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 when unconditional."""
        return len(self.class_names)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``manifest.json`` of ``folder``.

        Raises:
            InputError: it is missing or not a manifest.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise InputError(f"no token shards in {folder}: {MANIFEST_FILE} is missing")
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path} is not a token manifest: {where} {first['msg']}") from error


def write_tokens(
    source: ImageSource,
    tokenizer: Tokenizer,
    folder: Path,
    split: str,
    *,
    flips: bool = False,
    standardisation: Standardisation | None = None,
    batch_size: int = 128,
    images_per_shard: int = 65536,
) -> Manifest:
    """Encode every image of ``source`` into shards in ``folder``; the manifest is written last.

    Args:
        source: the images.
        tokenizer: what encodes them.
        folder: where the shards go; created. Files of an interrupted call are overwritten.
        split: name of the split, recorded.
        flips: also encode each image mirrored left to right (rows 2i and 2i + 1).
        standardisation: that of the training split; measured here when ``None``.
        batch_size: images encoded at a time.
        images_per_shard: rows of a full shard.
    """
    if len(source) == 0:
        raise InputError(f"the {split} split holds no images to encode")
    codebook = tokenizer.codebook
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.zeros(len(codebook), dtype=np.int64)
    shards: list[Shard] = []
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for indices, labels in _encoded(source, tokenizer, flips, batch_size):
        counts += np.bincount(indices.ravel(), minlength=len(codebook))
        pending.append((indices, labels))
        if sum(len(rows) for rows, _ in pending) >= images_per_shard:
            shards.append(_write_shard(folder, len(shards), pending, len(codebook)))
            pending = []
    if pending:
        shards.append(_write_shard(folder, len(shards), pending, len(codebook)))
    manifest = Manifest(
        codebook_size=len(codebook),
        codebook_dim=codebook.shape[1],
        grid=(int(indices.shape[1]), int(indices.shape[2])),
        class_names=source.class_names,
        standardisation=standardisation or Standardisation.of(codebook, counts),
        tokenizer_hash=tokenizer.fingerprint,
        split=split,
        flips=flips,
        shards=tuple(shards),
    )
    partial = folder / f".{MANIFEST_FILE}.partial"
    partial.write_text(json.dumps(asdict(manifest), indent=2))
    os.replace(partial, folder / MANIFEST_FILE)
    return manifest


def _encoded(
    source: ImageSource, tokenizer: Tokenizer, flips: bool, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (indices ``[n, h, w]``, labels ``[n]``) in the order of the source."""
    with ProgressBar("encoding", len(source)) as bar:
        for start in range(0, len(source), batch_size):
            stop = min(start + batch_size, len(source))
            arrays, labels = zip(*(source[i] for i in range(start, stop)), strict=True)
            images = images_to_tensor(arrays)
            repeats = 1
            if flips:
                images = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)
                repeats = 2
            yield tokenizer.encode(images).cpu().numpy(), np.repeat(np.asarray(labels), repeats)
            bar.update(stop)


def _write_shard(
    folder: Path, number: int, rows: list[tuple[np.ndarray, np.ndarray]], codebook_size: int
) -> Shard:
    dtype = np.uint16 if codebook_size <= 2**16 else np.int32
    indices = np.concatenate([part for part, _ in rows]).astype(dtype)
    labels = np.concatenate([part for _, part in rows]).astype(np.int32)
    path = folder / f"shard-{number:05d}.safetensors"
    save_file({"indices": np.ascontiguousarray(indices), "labels": labels}, path)
    return Shard(file=path.name, count=len(labels), sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Memory-map the arrays of a safetensors file: an 8-byte length, a JSON header, then the bytes."""
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(header_bytes))
    return {
        name: np.memmap(
            str(path),
            dtype=SAFETENSORS_DTYPES[entry["dtype"]],
            mode="r",
            offset=8 + header_bytes + entry["data_offsets"][0],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


class TokenDataset:
    """A folder of token shards, read through memory maps.

    Args:
        folder: where ``manifest.json`` lies.
        verify: compare each shard's SHA-256 with the manifest, once, here.

    Raises:
        InputError: a shard is missing, truncated or altered (named), or holds a label or code that the
            manifest does not allow.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self._maps = [self._open(shard, verify) for shard in self.manifest.shards]
        self._ends = list(accumulate(shard.count for shard in self.manifest.shards))

    def _open(self, shard: Shard, verify: bool) -> dict[str, np.ndarray]:
        path = self.folder / shard.file
        if not path.is_file():
            raise InputError(f"the shard {path} is missing: encode the images again")
        if verify and _sha256(path) != shard.sha256:
            raise InputError(
                f"the shard {path} is truncated or altered ({path.stat().st_size} bytes, its SHA-256 is not "
                "the manifest's): encode the images again"
            )
        arrays = _map_safetensors(path)
        expected = (shard.count, *self.manifest.grid)
        if arrays["indices"].shape != expected:
            raise InputError(f"{path} holds indices {arrays['indices'].shape}; the manifest says {expected}")
        limits = {"indices": self.manifest.codebook_size, "labels": max(self.manifest.num_classes, 1)}
        for name, limit in limits.items():
            if verify and not 0 <= int(arrays[name].min()) <= int(arrays[name].max()) < limit:
                raise InputError(
                    f"{path} holds {name} from {arrays[name].min()} to {arrays[name].max()}; "
                    f"accepted are 0 to {limit - 1}"
                )
        return arrays

    def __len__(self) -> int:
        return self._ends[-1]

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows by number: (indices, int64 ``[n, h, w]``; labels, int64 ``[n]``)."""
        shard_of = np.searchsorted(self._ends, numbers, side="right")
        indices = np.empty((len(numbers), *self.manifest.grid), dtype=np.int64)
        labels = np.empty(len(numbers), dtype=np.int64)
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            local = numbers[chosen] - (self._ends[shard] - self.manifest.shards[shard].count)
            indices[chosen] = self._maps[shard]["indices"][local]
            labels[chosen] = self._maps[shard]["labels"][local]
        return indices, labels


class ShuffledOrder:
    """The endless order in which training visits ``size`` rows: a fresh permutation every epoch.

    A position n ≥ 0 counts samples since the start of the run; it is the whole state, so that resuming
    needs the number of samples seen and nothing else.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def rows(self, start: int, count: int) -> np.ndarray:
        """Row numbers at positions ``start`` to ``start + count − 1``, across epochs."""
        rows = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, offset = divmod(start + filled, self.size)
            part = self._of_epoch(epoch)[offset : offset + count - filled]
            rows[filled : filled + len(part)] = part
            filled += len(part)
        return rows

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = keyed_rng(self.seed, Stream.SHUFFLE, epoch)
            self._epoch, self._permutation = epoch, rng.permutation(self.size)
        return self._permutation
