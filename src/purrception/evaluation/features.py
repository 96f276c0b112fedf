"""Images → features, streamed: statistics in float64; features are kept and cached, images are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data import Skipped, UnreadableImageError, ignored_files, images_to_tensor, spread_rows
from purrception.evaluation.extractors import Extracted, Extractor, extract_in_groups, with_channels
from purrception.evaluation.image_sets import ImageSet
from purrception.evaluation.metrics.statistics import FeatureStatistics, RunningStatistics, merged, require_finite
from purrception.evaluation.sealed import read_sealed, write_sealed
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.folders import user_cache
from purrception.utils.keyed_rng import Stream, keyed_rng
from purrception.utils.progress import ProgressBar

CHUNK = 256
"""Images read, extracted and cached together; also the unit of work that is shared among processes."""
KEPT = 50_000
"""Features kept of a larger set, drawn by a key; its statistics are of all images."""


@dataclass(frozen=True)
class ImageFeatures:
    """Features of a set of images, and their statistics."""

    statistics: FeatureStatistics
    """Statistics of all images."""
    spatial: FeatureStatistics | None = None
    """Statistics of features that keep positions in the image; none where the extractor has none."""
    spatial_halves: tuple[FeatureStatistics, FeatureStatistics] | None = None
    """The same of two halves of the images, drawn by a key; none where a half is smaller than two images."""
    features: Tensor | None = None
    """``[n, d]``; none where only statistics were saved."""
    logits: Tensor | None = None
    """``[n, classes]``; none where the extractor has no classes."""
    labels: Tensor | None = None
    """Long ``[n]``; none without classes."""
    rows: Tensor | None = None
    """Numbers of the images whose features are kept, long ``[n]``."""
    content: str = ""
    """A hash of the pixels, in order."""
    size: tuple[int, ...] = ()
    """Height and width of the images; empty where they are not known."""
    skipped: tuple[Skipped, ...] = ()
    """Images that cannot be read, which are left out."""
    ignored_files: tuple[Skipped, ...] = ()
    """Files among the images that are none."""

    @property
    def count(self) -> int:
        """Images, without the broken ones."""
        return self.statistics.count

    def subset(self, rows: Tensor) -> ImageFeatures:
        """Some of the images whose features are kept, by position; without spatial statistics."""
        assert self.features is not None
        features = self.features[rows]
        return ImageFeatures(
            FeatureStatistics.of(features),
            features=features,
            logits=None if self.logits is None else self.logits[rows],
            labels=None if self.labels is None else self.labels[rows],
            rows=None if self.rows is None else self.rows[rows],
        )


class FeatureCache:
    """Features on disk, under a hash of the pixels and of the extractor.

    Args:
        folder: by default ``features`` in purrception's cache; "none" keeps nothing.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder: Path | None = None
        if folder != "none":
            self.folder = Path(folder) if folder else user_cache("features")

    def load(self, extractor: Extractor, content: str, count: int) -> Extracted | None:
        """Features of ``count`` images; none where the file is damaged, altered or of an earlier version."""
        path = self._path(extractor, content)
        if path is None or not path.is_file():
            return None
        try:
            kept = read_sealed(path, "a part of the cache")
            valid = kept.has_digest and kept.about == _about(extractor, content)
            if not valid or any(len(tensor) != count for tensor in kept.tensors.values()):
                return None
            return Extracted(kept.tensors["features"], kept.tensors.get("spatial"), kept.tensors.get("logits"))
        except (InputError, KeyError, TypeError):  # a tensor of no dimension has no length
            return None

    def save(self, extractor: Extractor, content: str, extracted: Extracted) -> None:
        """Store features; the file appears whole or not at all."""
        path = self._path(extractor, content)
        if path is None:
            return
        tensors = {name: value for name, value in vars(extracted).items() if value is not None}
        write_sealed(path, tensors, _about(extractor, content))

    def _path(self, extractor: Extractor, content: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{extractor.name}-{extractor.fingerprint[:16]}" / f"{content[:32]}.safetensors"


NO_CACHE = FeatureCache("none")


def _about(extractor: Extractor, content: str) -> dict[str, str]:
    """What cached features belong to."""
    return {"extractor": extractor.fingerprint, "images": content}


@dataclass
class _Chunk:
    """What one process keeps of one chunk of images."""

    extracted: Extracted | None
    labels: list[int]
    rows: list[int]
    content: str
    shape: tuple[int, ...]
    first: str
    skipped: list[Skipped]


def extract_features(
    images: ImageSet,
    extractor: Extractor,
    cache: FeatureCache = NO_CACHE,
    *,
    strict: bool = False,
    title: str = "features",
) -> ImageFeatures:
    """Features of a set of images, shared by all processes; each returns the whole.

    Images are read a chunk at a time and dropped. Neither the number of processes nor the cache changes any bit.

    Args:
        images: the set.
        extractor: gives the features.
        cache: where finished chunks are kept.
        strict: refuse a broken image; otherwise it is left out and listed.
        title: of the progress bar.

    Raises:
        InputError: fewer than two images, images of several sizes, or features that are not finite (named).
    """
    chunks = -(-len(images) // CHUNK)
    own = distributed.share(chunks)
    kept = spread_rows(len(images), KEPT)
    in_first_half = keyed_rng(0, Stream.EVALUATION, part=5).permutation(len(images)) % 2 == 0
    running, spatial = RunningStatistics(), (RunningStatistics(), RunningStatistics())
    parts: list[_Chunk] = []
    with ProgressBar(title, len(own), silent=len(own) < 2) as bar:
        for done, number in enumerate(own, start=1):
            chunk = _extract_chunk(images, range(number * CHUNK, (number + 1) * CHUNK), extractor, cache, strict)
            _require_one_shape([*parts[:1], chunk])
            if chunk.extracted is not None:
                running.update(chunk.extracted.features)
                if chunk.extracted.spatial is not None:
                    chosen = torch.from_numpy(in_first_half[chunk.rows])
                    spatial[0].update(chunk.extracted.spatial[chosen])
                    spatial[1].update(chunk.extracted.spatial[~chosen])
                _drop(chunk, kept)
            parts.append(chunk)
            bar.update(done)
    gathered = distributed.gather((parts, running, spatial))
    everything = [part for theirs, _, _ in gathered for part in theirs]
    _require_one_shape(everything)
    halves = merged(pair[0] for _, _, pair in gathered), merged(pair[1] for _, _, pair in gathered)
    return _joined(images, everything, merged(one for _, one, _ in gathered), halves)


def _extract_chunk(
    images: ImageSet, rows: range, extractor: Extractor, cache: FeatureCache, strict: bool
) -> _Chunk:
    rows = rows[: max(len(images) - rows.start, 0)]
    chunk = _Chunk(None, [], [], "", (), "", [])
    arrays: list[np.ndarray] = []
    for row, found in zip(rows, images.read(rows), strict=True):
        if isinstance(found, UnreadableImageError):
            if strict:
                raise found
            chunk.skipped.append(Skipped.of(found))
            continue
        array, label = with_channels(found[0], extractor.channels, images.name(row)), found[1]
        if arrays and array.shape != chunk.shape:
            raise _several_sizes(chunk.first, chunk.shape, images.name(row), array.shape)
        if not arrays:
            chunk.shape, chunk.first = array.shape, images.name(row)
        arrays.append(array)
        chunk.rows.append(row)
        chunk.labels.append(label)
    if arrays:
        chunk.content = hash_images(arrays)
        chunk.extracted = cache.load(extractor, chunk.content, len(arrays))
        if chunk.extracted is None:
            chunk.extracted = extract_in_groups(extractor, images_to_tensor(arrays))
            require_finite(chunk.extracted.features, lambda row: images.name(chunk.rows[row]))
            cache.save(extractor, chunk.content, chunk.extracted)
    return chunk


def _drop(chunk: _Chunk, kept: np.ndarray) -> None:
    """Drop what a chunk no longer needs once its statistics are taken."""
    assert chunk.extracted is not None
    chosen = torch.from_numpy(np.isin(chunk.rows, kept))
    logits = chunk.extracted.logits
    chunk.extracted = Extracted(
        chunk.extracted.features[chosen].clone(), None, None if logits is None else logits[chosen].clone()
    )
    chunk.labels = [label for label, keep in zip(chunk.labels, chosen.tolist(), strict=True) if keep]
    chunk.rows = [row for row, keep in zip(chunk.rows, chosen.tolist(), strict=True) if keep]


def _joined(
    images: ImageSet,
    parts: Sequence[_Chunk],
    running: RunningStatistics,
    spatial: tuple[RunningStatistics, RunningStatistics],
) -> ImageFeatures:
    known = [part.extracted for part in parts if part.extracted is not None]
    whole = merged(spatial)
    digest = hashlib.sha256("".join(part.content for part in parts).encode()).hexdigest()
    statistics = running.result()
    logits = [one.logits for one in known if one.logits is not None]
    return ImageFeatures(
        statistics,
        spatial=whole.result() if whole.count else None,
        spatial_halves=(spatial[0].result(), spatial[1].result())
        if min(part.count for part in spatial) >= 2
        else None,
        features=torch.cat([one.features for one in known]),
        logits=torch.cat(logits) if logits else None,
        labels=torch.tensor([label for part in parts for label in part.labels]) if images.class_names else None,
        rows=torch.tensor([row for part in parts for row in part.rows]),
        content=digest,
        size=next(part.shape[:2] for part in parts if part.extracted is not None),
        skipped=tuple(one for part in parts for one in part.skipped),
        ignored_files=tuple(ignored_files(images)),
    )


def hash_images(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of images' shapes and pixels, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _require_one_shape(parts: Sequence[_Chunk]) -> None:
    known = [part for part in parts if part.extracted is not None]
    for part in known:
        if part.shape != known[0].shape:
            raise _several_sizes(known[0].first, known[0].shape, part.first, part.shape)


def _several_sizes(a: str, shape_a: Sequence[int], b: str, shape_b: Sequence[int]) -> InputError:
    one, other = (f"{shape[1]}×{shape[0]}" for shape in (shape_a, shape_b))
    return InputError(
        f"images of one set must share a size; {a} has {one} pixels, {b} has {other}: bring them to one size "
        "first, since a resize is part of the protocol"
    )
