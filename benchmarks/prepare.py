"""Speed of `purrception prepare`, and how busy it keeps the cores: `python benchmarks/prepare.py`.

JPEG photographs of about 500×375 pixels are made from the two that ship with scikit-learn, and encoded by an
untrained tokenizer of the given sizes, since speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {
    "vq-f8": {"codebook_size": 16384, "codebook_dim": 4, "channels": (128, 256, 256, 512), "layers": 2},
    "small": {"codebook_size": 1024, "codebook_dim": 8, "channels": (64, 128, 128, 256), "layers": 2},
}


def make_images(folder: Path, count: int) -> None:
    """Crops of photographs of various sizes and positions."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    folder.mkdir()
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    for number in range(count):
        photo = photos[number % 2]
        width, height = int(rng.integers(450, 550)), int(rng.integers(340, 410))
        left, top = int(rng.integers(640 - width + 1)), int(rng.integers(427 - height + 1))
        photo.crop((left, top, left + width, top + height)).save(folder / f"{number}.jpg", quality=90)


def main() -> None:
    """Prepare once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", choices=SIZES, default="vq-f8")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=256)
    options = parser.parse_args()
    import torch

    from purrception.experiment.prepare import prepare
    from purrception.experiment.settings import PrepareOptions
    from purrception.tokenizers import VQConfig, VQTokenizer

    torch.manual_seed(0)
    vq = VQConfig(**SIZES[options.tokenizer]).build(3, options.image_size)  # type: ignore[arg-type]
    vq.quantize.embedding.weight.data.normal_()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        VQTokenizer(vq).save(folder / "tokenizer")
        make_images(folder / "images", options.images)
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        prepare(
            str(folder / "images"),
            PrepareOptions(
                str(folder / "tokenizer"), str(folder / "out"), image_size=options.image_size, test_fraction=0
            ),
        )
        seconds, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        summary = json.loads((folder / "out/train/summary.json").read_text(encoding="utf-8"))
    busy = (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / seconds
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    print(f"{options.tokenizer} at {options.image_size} px, {threads}")
    print(f"cores busy {busy:.2f}, peak memory {now.ru_maxrss / 1024:.0f} MB, {json.dumps(summary)}")


if __name__ == "__main__":
    main()
