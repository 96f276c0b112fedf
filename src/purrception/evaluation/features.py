"""Images → features, streamed: statistics in float64; features are kept and cached, images are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
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
class _Share:
    """What one process keeps of the images that it has seen."""

    is_kept: np.ndarray
    """Whether an image's own features are kept, by its number."""
    in_first_half: np.ndarray
    """Whether it is in the first of two halves, by its number."""
    statistics: RunningStatistics = field(default_factory=RunningStatistics)
    spatial: tuple[RunningStatistics, ...] = field(
        default_factory=lambda: (RunningStatistics(), RunningStatistics())
    )
    """Of each half."""
    features: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    content: str = ""
    """The hashes of its chunks."""
    first: str = ""
    """The name of its first image, whose shape all have."""
    shape: tuple[int, ...] = ()
    skipped: list[Skipped] = field(default_factory=list)


def extract_features(
    images: ImageSet,
    extractor: Extractor,
    cache: FeatureCache = NO_CACHE,
    *,
    strict: bool = False,
    title: str = "features",
    keep: int = KEPT,
) -> ImageFeatures:
    """Features of a set of images, shared by all processes; each returns the whole.

    Images are read a chunk at a time and dropped. Neither the number of processes nor the cache changes any bit.

    Args:
        images: the set.
        extractor: gives the features.
        cache: where finished chunks are kept.
        strict: refuse a broken image; otherwise it is left out and listed.
        title: of the progress bar.
        keep: images at most whose own features are kept; of more, so many are drawn by a key.

    Raises:
        InputError: fewer than two images, images of several sizes, or features that are not finite (named).
    """
    own = distributed.share(-(-len(images) // CHUNK))
    is_kept = np.isin(np.arange(len(images)), spread_rows(len(images), keep))
    mine = _Share(is_kept, keyed_rng(0, Stream.EVALUATION, part=5).permutation(len(images)) % 2 == 0)
    with ProgressBar(title, len(own), silent=len(own) < 2) as bar:
        for done, number in enumerate(own, start=1):
            rows = range(number * CHUNK, min((number + 1) * CHUNK, len(images)))
            _add_chunk(mine, images, rows, extractor, cache, strict)
            bar.update(done)
    shares: list[_Share] = distributed.gather(mine)
    seen = [share for share in shares if share.shape]
    for share in seen:
        _require_one_shape(seen[0], share.first, share.shape)
    statistics = merged(share.statistics for share in shares).result()
    halves = [merged(half) for half in zip(*(share.spatial for share in shares), strict=True)]
    spatial = merged(halves)
    logits = [part for share in shares for part in share.logits]
    return ImageFeatures(
        statistics,
        spatial=spatial.result() if spatial.count else None,
        spatial_halves=(halves[0].result(), halves[1].result())
        if min(half.count for half in halves) >= 2
        else None,
        features=torch.cat([part for share in shares for part in share.features]),
        logits=torch.cat(logits) if logits else None,
        labels=torch.tensor([label for share in shares for label in share.labels]) if images.class_names else None,
        rows=torch.tensor([row for share in shares for row in share.rows]),
        content=hashlib.sha256("".join(share.content for share in shares).encode()).hexdigest(),
        size=seen[0].shape[:2],
        skipped=tuple(one for share in shares for one in share.skipped),
        ignored_files=tuple(ignored_files(images)),
    )


def _add_chunk(
    share: _Share, images: ImageSet, rows: range, extractor: Extractor, cache: FeatureCache, strict: bool
) -> None:
    """Read images, extract their features, and keep what is needed of both."""
    arrays: list[np.ndarray] = []
    readable: list[int] = []
    labels: list[int] = []
    for row, found in zip(rows, images.read(rows), strict=True):
        if isinstance(found, UnreadableImageError):
            if strict:
                raise found
            share.skipped.append(Skipped.of(found))
            continue
        array = with_channels(found[0], extractor.channels, images.name(row))
        if not share.shape:
            share.first, share.shape = images.name(row), array.shape
        _require_one_shape(share, images.name(row), array.shape)
        arrays.append(array)
        readable.append(row)
        labels.append(found[1])
    if not arrays:
        return
    content = hash_images(arrays)
    extracted = cache.load(extractor, content, len(arrays))
    if extracted is None:
        extracted = extract_in_groups(extractor, images_to_tensor(arrays))
        require_finite(extracted.features, lambda row: images.name(readable[row]))
        cache.save(extractor, content, extracted)
    share.content += content
    share.statistics.update(extracted.features)
    if extracted.spatial is not None:
        first = torch.from_numpy(share.in_first_half[readable])
        share.spatial[0].update(extracted.spatial[first])
        share.spatial[1].update(extracted.spatial[~first])
    kept = np.flatnonzero(share.is_kept[readable])
    share.features.append(extracted.features[kept])
    if extracted.logits is not None:
        share.logits.append(extracted.logits[kept])
    share.rows += [readable[place] for place in kept]
    share.labels += [labels[place] for place in kept]


def hash_images(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of images' shapes and pixels, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _require_one_shape(share: _Share, name: str, shape: tuple[int, ...]) -> None:
    if shape != share.shape:
        one, other = (f"{width}×{height}" for height, width, *_ in (share.shape, shape))
        raise InputError(
            f"images of one set must share a size; {share.first} has {one} pixels, {name} has {other}: bring them "
            "to one size first, since a resize is part of the protocol"
        )
