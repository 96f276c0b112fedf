"""Encoding images: threads decode the next images while the tokenizer encodes these."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from purrception.data import ImageSource, Skipped, UnreadableImageError, Views, captions_of, images_to_tensor
from purrception.utils.settings import check_at_least, check_numbers

if TYPE_CHECKING:
    from purrception.tokenizers import VQTokenizer

PIXELS_PER_BATCH = 2**20
"""How many pixels are encoded at a time by default."""
LARGEST_BATCH = 128
"""How many images are encoded at a time by default, at most."""

T = TypeVar("T")
Decoded = tuple[np.ndarray, int, str] | UnreadableImageError


@dataclass(frozen=True)
class EncodingConfig:
    """How images are encoded. The result does not depend on the number of threads."""

    images_per_shard: int = 4096
    """The number of source images that a shard covers; it has fewer where some are broken."""
    batch_size: int = 0
    """The number of images that are encoded at a time; 0 means about a megapixel, at most 128 images."""
    workers: int = 0
    """The number of threads that read and decode images; 0 means one per core, at most 16."""
    strict: bool = False
    """Stop at the first broken image instead of skipping it."""

    def __post_init__(self) -> None:
        """Refuse settings under which nothing can be encoded."""
        check_numbers(self, images_per_shard=2**24, batch_size=2**20, workers=2**12)
        check_at_least(self, images_per_shard=1, batch_size=0, workers=0)


@dataclass
class EncodedPart:
    """The encoded rows of a range of images."""

    indices: list[np.ndarray] = field(default_factory=list)
    """The indices in batches ``[n, h, w]``."""
    labels: list[int] = field(default_factory=list)
    """The label of each row."""
    captions: list[str] = field(default_factory=list)
    """The caption of each row; empty where the images have none."""
    skipped: list[Skipped] = field(default_factory=list)
    """The images that cannot be read."""
    encoder_seconds: float = 0.0
    """The time spent in the tokenizer, in seconds."""


class Encoder:
    """Encodes ranges of a source's images, one after another.

    Args:
        source: the images.
        views: the views of each image, which become rows.
        tokenizer: encodes the images.
        config: batch size, threads, and whether to stop at a broken image.
    """

    def __init__(self, source: ImageSource, views: Views, tokenizer: VQTokenizer, config: EncodingConfig) -> None:
        self.source, self.views, self.tokenizer, self.config = source, views, tokenizer, config
        self._captions = captions_of(source)

    def parts(self, ranges: Sequence[range], advance: Callable[[int], None]) -> Iterator[EncodedPart]:
        """The rows of each range; ``advance`` is called with the number of images done since its last call.

        Raises:
            UnreadableImageError: an image is broken, and ``config.strict`` is set.
        """
        workers = self.config.workers or min(os.cpu_count() or 1, 16)
        positions = itertools.chain.from_iterable(ranges)
        ahead = 2 * (self.config.batch_size or LARGEST_BATCH)
        with closing(read_ahead(self._decode, positions, workers, ahead)) as decoded:
            for covered in ranges:
                yield self._encode(itertools.islice(decoded, len(covered)), advance)

    def _decode(self, position: int) -> Decoded:
        try:
            return *self.views.read(self.source, position), self._captions[position] if self._captions else ""
        except UnreadableImageError as error:
            return error

    def _encode(self, decoded: Iterator[Decoded], advance: Callable[[int], None]) -> EncodedPart:
        part, batch, seen = EncodedPart(), [], 0
        for item in decoded:
            seen += 1
            if isinstance(item, UnreadableImageError):
                if self.config.strict:
                    raise item
                part.skipped.append(Skipped.of(item))
                continue
            batch.append(item)
            if len(batch) == self._batch_size(item[0]):
                self._add(part, batch)
                advance(seen)
                batch, seen = [], 0
        if batch:
            self._add(part, batch)
        if seen:
            advance(seen)
        return part

    def _batch_size(self, views: np.ndarray) -> int:
        height, width = views.shape[1:3]
        return self.config.batch_size or max(1, min(LARGEST_BATCH, PIXELS_PER_BATCH // (height * width)))

    def _add(self, part: EncodedPart, batch: list[tuple[np.ndarray, int, str]]) -> None:
        images = images_to_tensor([view for views, _, _ in batch for view in views])
        began = time.monotonic()
        part.indices.append(self.tokenizer.encode(images).cpu().numpy())
        part.encoder_seconds += time.monotonic() - began
        repeats = range(self.views.per_image)
        part.labels += [label for _, label, _ in batch for _ in repeats]
        if self._captions:
            part.captions += [caption for _, _, caption in batch for _ in repeats]


def read_ahead(
    read: Callable[[int], T], positions: Iterator[int], workers: int, ahead: int
) -> Generator[T, None, None]:
    """``read(position)`` for every position, in order; meanwhile threads work on the next ``ahead`` of them."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        pending: deque[Future[T]] = deque(
            pool.submit(read, position) for position in itertools.islice(positions, ahead)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(read, position) for position in itertools.islice(positions, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
