"""Tiny IDX sets, as MNIST is distributed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SPLITS = {"train": "train", "test": "t10k"}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as the content of an IDX file."""
    sizes = np.asarray(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx_set(
    root: Path,
    *,
    train: int = 12,
    test: int = 6,
    classes: int = 3,
    prefix: str = "",
    suffix: str = "",
    first_label: int = 0,
    pixels: dict[str, np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Write images of 28×28 pixels with bars at a height that is their class; returns pixels and labels."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        if not count:
            continue
        labels[split] = np.arange(count) % classes + first_label
        if pixels is None:
            made[split] = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
            for image, label in zip(made[split], labels[split], strict=True):
                image[8 * (label % 3) : 8 * (label % 3) + 6] += 200
        else:
            made[split] = pixels[split]
        for kind, array, dimensions in (("images", made[split], 3), ("labels", labels[split], 1)):
            content = idx_bytes(array)
            name = f"{prefix}{SPLITS[split]}-{kind}-idx{dimensions}-ubyte{suffix}"
            (root / name).write_bytes(gzip.compress(content) if suffix else content)
    return made, labels
