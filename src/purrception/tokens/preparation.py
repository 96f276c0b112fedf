"""Encoding the images of a source into token shards.

The shards are planned first, so that neither an interruption nor the number of processes changes a byte: shard s
covers images s·n to (s + 1)·n − 1 of the source's fixed order, whatever happens to the others. A shard is finished
when its record is in ``progress/``; the others are encoded again.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purrception.data import (
    REPORT_FILE,
    DataConfig,
    ImageSource,
    NothingReadableError,
    Skipped,
    Views,
    describe_report,
    ignored_files,
    open_images,
    report_text,
)
from purrception.storage import one_writer, read_json, reading, write_file
from purrception.tokens.encoding import EncodedPart, Encoder, EncodingConfig
from purrception.tokens.manifest import MANIFEST_FILE, Manifest, Shard, Standardisation
from purrception.tokens.shards import shard_name, write_shard
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar

if TYPE_CHECKING:
    from purrception.tokenizers import VQTokenizer

PLAN_FILE, PROGRESS_FOLDER, SUMMARY_FILE = "plan.json", "progress", "summary.json"


@dataclass(frozen=True)
class Plan:
    """Everything that determines the bytes of the shards."""

    split: str
    """The name of the split."""
    images: int
    """The number of images."""
    listing: str
    """The hash of the list of images."""
    tokenizer_hash: str
    """The fingerprint of the tokenizer."""
    views: Views
    """The views of each image."""
    images_per_shard: int
    """The number of images that a shard covers."""
    batch_size: int
    """The number of images that are encoded at a time."""

    @property
    def ranges(self) -> list[range]:
        """The images of each shard."""
        return [
            range(start, min(start + self.images_per_shard, self.images))
            for start in range(0, self.images, self.images_per_shard)
        ]

    def write_or_check(self, folder: Path) -> None:
        """Write the plan, or check that an existing plan is the same; every process takes part.

        Raises:
            InputError: the folder was begun with another plan; the message says what differs.
        """
        file, planned = folder / PLAN_FILE, asdict(self)
        if file.is_file():
            remedy = f"remove {folder} to encode the images again"
            existing: dict[str, Any] = read_json(file, dict[str, Any], "the plan of token shards", remedy)
            if differing := [key for key, value in planned.items() if existing.get(key) != value]:
                raise InputError(
                    f"{folder} was begun with another {', '.join(differing)}: give another folder, "
                    "or remove this one to encode the images again"
                )
        elif distributed.rank() == 0:
            if any(folder.glob("shard-*")):
                raise InputError(f"{folder} holds shards already: give another folder, or remove this one")
            write_file(file, json.dumps(planned, indent=2))
        distributed.wait()


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard, stored in ``progress/``."""

    count: int
    """The number of rows; if no image can be read, there are none, and no shard."""
    skipped: tuple[dict[str, str], ...]
    """The images that cannot be read; see :func:`escaped`."""
    codes: tuple[int, ...] = ()
    """The codes that occur."""
    counts: tuple[int, ...] = ()
    """How often each of them occurs."""
    sha256: str = ""
    """The SHA-256 of the shard, hexadecimal."""
    grid: tuple[int, ...] = (0, 0)
    """The height and width of the grid of codes."""
    seconds: float = 0.0
    """How long the shard took."""
    encoder_seconds: float = 0.0
    """How much of that was spent in the tokenizer."""

    def check(self, codebook_size: int) -> None:
        """Refuse counts that do not add up.

        Raises:
            ValueError: they do not.
        """
        valid = all(0 <= code < codebook_size for code in self.codes) and all(one > 0 for one in self.counts)
        positions = self.count * math.prod(self.grid)
        if not valid or len(self.codes) != len(self.counts) or sum(self.counts) != positions or len(self.grid) < 2:
            raise ValueError(f"its codes are not {positions} in all, or not below {codebook_size}")


def prepare_splits(
    data: DataConfig,
    tokenizer: VQTokenizer,
    folder: Path,
    config: EncodingConfig | None = None,
    *,
    seed: int = 0,
) -> dict[str, Manifest]:
    """Encode both splits of the images that ``data`` describes, into ``folder/train`` and ``folder/test``.

    The test split is standardised like the training split. It is left out if it has no image that can be read.
    See :func:`write_tokens`.
    """
    manifests: dict[str, Manifest] = {}
    for split in ("train", "test"):
        source = open_images(data, split)
        if split == "test" and len(source) == 0:
            continue
        try:
            manifests[split] = write_tokens(
                source,
                tokenizer,
                folder / split,
                split,
                views=Views.of(data, seed) if split == "train" else None,
                standardisation=manifests["train"].standardisation if split == "test" else None,
                config=config,
            )
        except NothingReadableError:  # the report says so; a few broken held-out images are no reason to stop
            if split == "train":
                raise
    return manifests


def describe_skipped(folder: Path) -> list[str]:
    """A line about the skipped images of each split in ``folder``; none where none were skipped."""
    described = {split: describe_report(folder / split) for split in ("train", "test")}
    return [f"{split} images: {text}" for split, text in described.items() if text]


def write_tokens(
    source: ImageSource,
    tokenizer: VQTokenizer,
    folder: Path,
    split: str,
    *,
    views: Views | None = None,
    standardisation: Standardisation | None = None,
    config: EncodingConfig | None = None,
) -> Manifest:
    """Encode every image of ``source`` into shards in ``folder``; the manifest is written last.

    Called again after an interruption, it continues. Broken images are skipped and listed in ``report.jsonl``.

    Args:
        source: the images.
        tokenizer: encodes the images.
        folder: where to write the shards; created if necessary.
        split: the name of the split, for the manifest.
        views: the views of each image, which become rows; by default its centre.
        standardisation: that of the training split; by default it is computed from these images.
        config: the sizes of shards and batches, the number of threads, and strictness.

    Raises:
        InputError: there is nothing to encode, every image is broken, the folder was begun with other images or
            another tokenizer, another process writes there, or the disk is full.
    """
    views, config = views or Views(), config or EncodingConfig()
    if len(source) == 0:
        raise InputError(f"the {split} split holds no images to encode")
    plan = Plan(
        split,
        len(source),
        source.listing,
        tokenizer.fingerprint,
        views,
        config.images_per_shard,
        config.batch_size,
    )
    finished = (folder / MANIFEST_FILE).is_file() and not (folder / PROGRESS_FOLDER).exists()
    if distributed.gather(finished)[0]:
        plan.write_or_check(folder)
    else:
        with one_writer(folder):
            _write_planned(plan, Encoder(source, views, tokenizer, config), standardisation, folder)
    return Manifest.read(folder)


def _write_planned(plan: Plan, encoder: Encoder, standardisation: Standardisation | None, folder: Path) -> None:
    """Write the planned shards that are missing; this job is the folder's only writer."""
    source = encoder.source
    if distributed.rank() == 0:
        (folder / PROGRESS_FOLDER).mkdir(parents=True, exist_ok=True)
    distributed.wait()
    plan.write_or_check(folder)
    if not (folder / MANIFEST_FILE).is_file():
        missing = [number for number in range(len(plan.ranges)) if not _record(folder, number).is_file()]
        distributed.wait()  # every process has looked before one continues
        _encode_shards(plan, missing, encoder, folder)
        distributed.wait()
        if distributed.rank() == 0:
            write_file(folder / REPORT_FILE, report_text([*_skipped(plan, folder), *ignored_files(source)]))
        if not any(folder.glob("shard-*")):
            raise NothingReadableError(
                f"the {plan.images} images of the {plan.split} split", _skipped(plan, folder)[0]
            )
        if distributed.rank() == 0:
            _finish(plan, source, encoder.tokenizer, standardisation, folder)
        distributed.wait()
    if distributed.rank() == 0:
        shutil.rmtree(folder / PROGRESS_FOLDER, ignore_errors=True)


def _record(folder: Path, number: int) -> Path:
    return folder / PROGRESS_FOLDER / f"{number:05d}.json"


def _encode_shards(plan: Plan, missing: list[int], encoder: Encoder, folder: Path) -> None:
    """Encode this process's part of the missing shards."""
    mine = missing[distributed.rank() :: distributed.count()]
    ranges = [plan.ranges[number] for number in mine]
    size = len(encoder.tokenizer.codebook)
    done = 0

    with ProgressBar(f"encoding {plan.split}", sum(map(len, ranges))) as bar:

        def advance(images: int) -> None:
            nonlocal done
            done += images
            bar.update(done, f"{done / max(time.monotonic() - start, 1e-9):.1f} images/s")

        start = began = time.monotonic()
        for number, part in zip(mine, encoder.parts(ranges, advance), strict=True):
            record = _write_part(folder, number, part, size)
            timed = replace(record, seconds=time.monotonic() - began, encoder_seconds=part.encoder_seconds)
            write_file(_record(folder, number), json.dumps(asdict(timed)))
            began = time.monotonic()


def _write_part(folder: Path, number: int, part: EncodedPart, codebook_size: int) -> Record:
    """Write a shard, unless none of its images can be read; returns its record."""
    skipped = tuple(map(escaped, part.skipped))
    if not part.indices:
        return Record(0, skipped)
    indices = np.concatenate(part.indices)
    labels = np.asarray(part.labels)
    digest = write_shard(folder / shard_name(number), indices, labels, codebook_size, part.captions)
    codes, counts = np.unique(indices, return_counts=True)
    return Record(
        len(indices), skipped, tuple(codes.tolist()), tuple(counts.tolist()), digest, tuple(indices.shape[1:])
    )


def escaped(one: Skipped) -> dict[str, str]:
    """An image that cannot be read, in JSON's escapes, because file names need not be valid text."""
    return {"image": json.dumps(one.name)[1:-1], "reason": json.dumps(one.reason)[1:-1]}


def unescaped(one: dict[str, str]) -> Skipped:
    """The reverse of :func:`escaped`."""
    return Skipped(*(json.loads(f'"{one[key]}"') for key in ("image", "reason")))


def _skipped(plan: Plan, folder: Path) -> list[Skipped]:
    """The images that cannot be read, in order."""
    with reading("the records of shards", folder / PROGRESS_FOLDER, "remove them to encode the images again"):
        return [unescaped(one) for record in _records(plan, folder) for one in record.skipped]


def _records(plan: Plan, folder: Path) -> Iterator[Record]:
    """The record of each shard, in order."""
    for number in range(len(plan.ranges)):
        file = _record(folder, number)
        yield read_json(file, Record, "the record of a shard", f"remove {file}, and its images are encoded again")


def _finish(
    plan: Plan, source: ImageSource, tokenizer: VQTokenizer, standardisation: Standardisation | None, folder: Path
) -> None:
    """Write the summary and, last, the manifest. Counts are whole numbers, so that their order changes no sum."""
    codebook = tokenizer.codebook
    counts = np.zeros(len(codebook), dtype=np.int64)
    shards: list[Shard] = []
    skipped = 0
    grid, seconds, encoder_seconds = (0, 0), 0.0, 0.0
    for number, record in enumerate(_records(plan, folder)):
        skipped += len(record.skipped)
        seconds, encoder_seconds = seconds + record.seconds, encoder_seconds + record.encoder_seconds
        if record.count:
            with reading(
                "the record of a shard", _record(folder, number), "remove it, and its images are encoded again"
            ):
                record.check(len(codebook))
                shards.append(Shard(shard_name(number), record.count, record.sha256))
            counts[list(record.codes)] += record.counts
            grid = (record.grid[0], record.grid[1])
    summary = {
        "images": plan.images,
        "skipped": skipped,
        "rows": sum(shard.count for shard in shards),
        "codes_used": int((counts > 0).sum()),
        "seconds_of_all_processes": round(seconds, 3),
        "images_per_second_and_process": round(plan.images / max(seconds, 1e-9), 3),
        "share_outside_encoder": round(1 - encoder_seconds / max(seconds, 1e-9), 4),
    }
    write_file(folder / SUMMARY_FILE, json.dumps(summary, indent=2))
    Manifest(
        codebook_size=len(codebook),
        codebook_dim=codebook.shape[1],
        grid=grid,
        class_names=source.class_names,
        standardisation=standardisation or Standardisation.of(codebook, counts),
        tokenizer_hash=plan.tokenizer_hash,
        split=plan.split,
        flips=plan.views.flips,
        shards=tuple(shards),
        views=plan.views.crops,
    ).write(folder)
