"""Start-up time, memory and speed of the training loader: `python benchmarks/streaming.py`.

Each measurement has a process of its own: reading the metadata of 100 000 shards (409.6 million images), whose
files are never opened; and codes per second and resident memory when shuffled batches are read from 4 and from 64
shards of 4096 images with 32×32 sites.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES_PER_SHARD, GRID, CODEBOOK_SIZE, CLASSES = 4096, (32, 32), 16384, 1000
BATCH = 64


def resident_megabytes(key: str = "VmRSS") -> float:
    """Memory of this process, MB: now (VmRSS) or without mapped files (RssAnon)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def make_tokens(folder: Path, shards: int, written: int) -> None:
    """A token set whose first ``written`` shards hold random codes; the others exist in the manifest only."""
    from purrception.tokens import Manifest, Shard, Standardisation
    from purrception.tokens.shards import shard_name, write_shard

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    hashes = ["0" * 64] * shards
    for number in range(written):
        codes = rng.integers(CODEBOOK_SIZE, size=(IMAGES_PER_SHARD, *GRID), dtype=np.uint16)
        labels = rng.integers(CLASSES, size=IMAGES_PER_SHARD)
        hashes[number] = write_shard(folder / shard_name(number), codes, labels, CODEBOOK_SIZE)
    entries = tuple(Shard(shard_name(number), IMAGES_PER_SHARD, digest) for number, digest in enumerate(hashes))
    names = tuple(map(str, range(CLASSES)))
    statistics = Standardisation((0.0,) * 4, 1.0)
    Manifest(CODEBOOK_SIZE, 4, GRID, names, statistics, "made up", "train", False, entries).write(folder)


def measure_start(folder: Path) -> dict[str, float]:
    """Open a set and ask for the order of its rows, without reading any."""
    from purrception.tokens import ShuffledOrder, TokenDataset

    before, began = resident_megabytes(), time.monotonic()
    dataset = TokenDataset(folder)
    opened = time.monotonic() - began
    order = ShuffledOrder(len(dataset), 0)
    order.rows(10**9, 4096)
    figures = {"images": len(dataset), "seconds_to_open": opened, "megabytes": resident_megabytes() - before}
    return figures | {"megabytes_of_manifest": (folder / "manifest.json").stat().st_size / 2**20}


def measure_reading(folder: Path, batches: int) -> dict[str, float]:
    """Codes per second over shuffled batches, with and without the noise that training adds."""
    from purrception.tokens import ShuffledOrder, TokenDataset
    from purrception.training.batches import TrainingBatches

    before = resident_megabytes("RssAnon")
    dataset = TokenDataset(folder)
    order, made = ShuffledOrder(len(dataset), 0), TrainingBatches(dataset, 0, 0.1)
    began = time.monotonic()
    for number in range(len(dataset.manifest.shards)):  # the first touch of every shard verifies it
        dataset.rows(np.array([number * IMAGES_PER_SHARD]))
    verified = time.monotonic() - began
    codes = batches * BATCH * GRID[0] * GRID[1]
    began = time.monotonic()
    for number in range(batches):
        dataset.rows(order.rows(number * BATCH, BATCH))
    rows_only = time.monotonic() - began
    began = time.monotonic()
    for number in range(batches):
        made.batch(number * BATCH, BATCH)
    whole = time.monotonic() - began
    return {
        "images": len(dataset),
        "seconds_to_verify": verified,
        "million_codes_per_second": codes / rows_only / 1e6,
        "million_codes_per_second_with_noise_and_times": codes / whole / 1e6,
        "megabytes": resident_megabytes("RssAnon") - before,
        "megabytes_with_mapped_pages": resident_megabytes(),
    }


def main() -> None:
    """Measure, each part in a process of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000, help="shards of metadata")
    parser.add_argument("--read", type=int, nargs="+", default=[4, 64], help="shards of the sets that are read")
    parser.add_argument("--batches", type=int, default=100, help="batches of 64 images to read")
    parser.add_argument("--part", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, folder = options.part
        measured = (
            measure_start(Path(folder)) if part == "start" else measure_reading(Path(folder), options.batches)
        )
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as temporary:
        reads = [("read", shards, shards) for shards in options.read]
        for name, shards, written in [("start", options.shards, 0), *reads]:
            folder = Path(temporary) / f"{name}-{shards}"
            make_tokens(folder, shards, written)
            command = [sys.executable, __file__, "--batches", str(options.batches), "--part", name, str(folder)]
            figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"{name} {shards} shards: " + ", ".join(f"{key} {value:,.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
