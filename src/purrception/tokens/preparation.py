"""From an image source to token shards: planned first, so that a kill or another world size changes no byte.

Shard s covers images s·n to (s + 1)·n − 1 of the source's fixed order, whatever becomes of the others. A shard is
finished when its record lies in ``progress/``; what is not finished is encoded again.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
    from purrception.tokenizers import Tokenizer

PLAN_FILE, PROGRESS_FOLDER, SUMMARY_FILE = "plan.json", "progress", "summary.json"


@dataclass(frozen=True)
class Plan:
    """Everything that determines the bytes of the shards."""

    split: str
    images: int
    listing: str
    tokenizer_hash: str
    views: Views
    images_per_shard: int
    batch_size: int

    @property
    def ranges(self) -> list[range]:
        """The images of each shard."""
        return [
            range(start, min(start + self.images_per_shard, self.images))
            for start in range(0, self.images, self.images_per_shard)
        ]

    def settle(self, folder: Path) -> None:
        """Write the plan, or check that a plan already there is this one.

        Raises:
            InputError: the folder was begun under another plan; what differs is named.
        """
        file, here = folder / PLAN_FILE, asdict(self)
        if file.is_file():
            remedy = f"remove {folder} to encode the images again"
            there: dict[str, Any] = read_json(file, dict[str, Any], "the plan of token shards", remedy)
            if differing := [key for key, value in here.items() if there.get(key) != value]:
                raise InputError(
                    f"{folder} was begun with another {', '.join(differing)}: give another folder, "
                    "or remove this one to encode the images again"
                )
        elif distributed.rank() == 0:
            if any(folder.glob("shard-*")):
                raise InputError(f"{folder} holds shards already: give another folder, or remove this one")
            write_file(file, json.dumps(here, indent=2).encode())
        distributed.wait()


@dataclass(frozen=True)
class Left:
    """An image that could not be read, as a record names it: escaped, for names of files need not be text."""

    image: str
    reason: str

    @classmethod
    def of(cls, one: Skipped) -> Self:
        """What :meth:`skipped` gives back."""
        return cls(*(json.dumps(text)[1:-1] for text in (one.name, one.reason)))

    def skipped(self) -> Skipped:
        """The image, under its own name."""
        return Skipped(*(str(json.loads(f'"{text}"')) for text in (self.image, self.reason)))


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard; its file in ``progress/`` is this record."""

    count: int
    """Rows; none where no image could be read, and then there is no shard."""
    skipped: tuple[Left, ...]
    codes: tuple[int, ...] = ()
    """Codes that occur."""
    counts: tuple[int, ...] = ()
    """How often each of them does."""
    sha256: str = ""
    grid: tuple[int, ...] = (0, 0)
    seconds: float = 0.0
    encoder_seconds: float = 0.0

    def check(self, codebook_size: int) -> None:
        """Refuse counts that do not add up."""
        codes_fit = all(0 <= code < codebook_size for code in self.codes) and all(one > 0 for one in self.counts)
        sites = self.count * math.prod(self.grid)
        if not codes_fit or len(self.codes) != len(self.counts) or sum(self.counts) != sites or len(self.grid) < 2:
            raise ValueError(f"its codes are not counted {sites} times, or are none of {codebook_size}")


def prepare_splits(
    data: DataConfig,
    tokenizer: Tokenizer,
    folder: Path,
    config: EncodingConfig | None = None,
    *,
    seed: int = 0,
) -> dict[str, Manifest]:
    """Both splits of the images that ``data`` names, as shards in ``folder/train`` and ``folder/test``.

    The test split is standardised as the training split is. It may be empty, and is where no image of it can be
    read. See :func:`write_tokens`.
    """
    made: dict[str, Manifest] = {}
    for split in ("train", "test"):
        source = open_images(data, split)
        if split == "test" and len(source) == 0:
            continue
        try:
            made[split] = write_tokens(
                source,
                tokenizer,
                folder / split,
                split,
                views=Views.of(data, seed) if split == "train" else None,
                standardisation=made["train"].standardisation if split == "test" else None,
                config=config,
            )
        except NothingReadableError:  # its report says so; a few broken held-out images stop nothing
            if split == "train":
                raise
    return made


def describe_skipped(folder: Path) -> list[str]:
    """Lines that say which images of the splits in ``folder`` were skipped; none where all were taken."""
    described = {split: describe_report(folder / split) for split in ("train", "test")}
    return [f"{split} images: {text}" for split, text in described.items() if text]


def write_tokens(
    source: ImageSource,
    tokenizer: Tokenizer,
    folder: Path,
    split: str,
    *,
    views: Views | None = None,
    standardisation: Standardisation | None = None,
    config: EncodingConfig | None = None,
) -> Manifest:
    """Encode every image of ``source`` into shards in ``folder``; the manifest is written last.

    An interrupted call goes on where it stood. Broken images are skipped and listed in ``report.jsonl``.

    Args:
        source: the images.
        tokenizer: what encodes them.
        folder: where the shards go; created.
        split: name of the split, recorded.
        views: the rows that an image becomes; default: its centre.
        standardisation: that of the training split; measured here when ``None``.
        config: sizes of shards and batches, threads, strictness.

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
        plan.settle(folder)
    else:
        with one_writer(folder):
            _write_planned(plan, Encoder(source, views, tokenizer, config), standardisation, folder)
    return Manifest.read(folder)


def _write_planned(plan: Plan, encoder: Encoder, standardisation: Standardisation | None, folder: Path) -> None:
    """What is missing of the planned shards, in a folder that is ours."""
    source = encoder.source
    if distributed.rank() == 0:
        (folder / PROGRESS_FOLDER).mkdir(parents=True, exist_ok=True)
    distributed.wait()
    plan.settle(folder)
    if not (folder / MANIFEST_FILE).is_file():
        missing = [number for number in range(len(plan.ranges)) if not _record(folder, number).is_file()]
        distributed.wait()  # all have looked before any goes on
        _encode_shards(plan, missing, encoder, folder)
        distributed.wait()
        if distributed.rank() == 0:
            _report(plan, source, folder)
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
    """This process's part of the missing shards."""
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
    """Write a shard, unless none of its images could be read; its record."""
    skipped = tuple(map(Left.of, part.skipped))
    if not part.indices:
        return Record(0, skipped)
    indices = np.concatenate(part.indices)
    digest = write_shard(folder / shard_name(number), indices, np.asarray(part.labels), codebook_size)
    codes, counts = np.unique(indices, return_counts=True)
    return Record(
        len(indices), skipped, tuple(codes.tolist()), tuple(counts.tolist()), digest, tuple(indices.shape[1:])
    )


def _skipped(plan: Plan, folder: Path) -> list[Skipped]:
    """Every image that could not be read, in order."""
    with reading("the records of shards", folder / PROGRESS_FOLDER, "remove them to encode the images again"):
        return [one.skipped() for record in _records(plan, folder) for one in record.skipped]


def _records(plan: Plan, folder: Path) -> Iterator[Record]:
    """What was recorded of each shard, in order."""
    for number in range(len(plan.ranges)):
        file = _record(folder, number)
        yield read_json(file, Record, "the record of a shard", f"remove {file}, and its images are encoded again")


def _report(plan: Plan, source: ImageSource, folder: Path) -> None:
    """Write which images and files were not taken."""
    write_file(folder / REPORT_FILE, report_text([*_skipped(plan, folder), *ignored_files(source)]).encode())


def _finish(
    plan: Plan, source: ImageSource, tokenizer: Tokenizer, standardisation: Standardisation | None, folder: Path
) -> None:
    """Summary and, last, the manifest. Code counts are whole numbers: their order changes no sum."""
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
                "the record of a shard", _record(folder, number), "remove it, and its images are encoded"
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
    write_file(folder / SUMMARY_FILE, json.dumps(summary, indent=2).encode())
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
