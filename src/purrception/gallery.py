"""Generated images on disk: PNGs, a grid, entropy maps, and a manifest that reproduces them."""

from __future__ import annotations

import json
import math
import platform
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from purrception.data import array_to_pil
from purrception.errors import InputError
from purrception.pictures import heat_map, image_grid
from purrception.pipeline import PurrceptionOutput, PurrceptionPipeline
from purrception.sampling import SamplingConfig
from purrception.tokenizers import fingerprint

MANIFEST_FILE = "manifest.json"
LARGEST_GRID = 100


def numbered_folder(parent: Path) -> Path:
    """The next free ``parent/000``, ``parent/001``, …; it is not created."""
    taken = [int(path.name) for path in parent.glob("*") if re.fullmatch(r"\d{3,}", path.name)]
    return parent / f"{max(taken, default=-1) + 1:03d}"


def empty_folder(folder: Path) -> Path:
    """Create ``folder``.

    Raises:
        InputError: it already holds something; nothing is overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is already there and not empty: choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_gallery(
    pipeline: PurrceptionPipeline,
    out: PurrceptionOutput,
    labels: Sequence[int],
    settings: SamplingConfig,
    seed: int,
    source: str,
    folder: Path,
) -> None:
    """Write a generation to ``folder``.

    ``00000.png``, … are the images; ``entropy/00000.png``, … heat maps of their last posterior, black where
    the model was certain, brightest at the largest entropy of the whole generation; ``grid.png`` and
    ``entropy.png`` show up to 100 of them;
    ``manifest.json`` says how to make them again.
    """
    (folder / "entropy").mkdir(parents=True, exist_ok=True)
    ceiling = float(out.entropy.max())
    maps: list[Image.Image] = []
    entries: list[dict[str, Any]] = []
    for number, (image, entropy) in enumerate(zip(out.images, out.entropy.numpy(), strict=True)):
        name = f"{number:05d}.png"
        image.save(folder / name)
        maps.append(heat_map(entropy, ceiling, image.size))
        maps[-1].save(folder / "entropy" / name)
        entries.append({"file": name, "label": labels[number], "mean_entropy": float(entropy.mean())})
    for name, pictures in (("grid.png", out.images), ("entropy.png", maps)):
        arrays = np.stack([np.asarray(picture) for picture in pictures[:LARGEST_GRID]])
        arrays = arrays.reshape(*arrays.shape[:3], -1)
        array_to_pil(image_grid(arrays, scale=max(1, 64 // arrays.shape[1]))).save(folder / name)
    manifest = {
        "command": _command(source, labels, settings, seed),
        "source": source,
        "seed": seed,
        "steps": settings.steps,
        "solver": settings.solver,
        "temperature": settings.temperature,
        "guidance": settings.guidance,
        "nfe": out.nfe,
        "objective": pipeline.config.objective,
        "transformer_hash": fingerprint(pipeline.transformer),
        "tokenizer_hash": pipeline.tokenizer.fingerprint,
        "class_names": pipeline.class_names,
        "entropy_of_brightest": ceiling,
        "entropy_of_uniform": math.log(len(pipeline.transformer.codebook)),
        "dtype": str(pipeline.dtype),
        "device": str(pipeline.device),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("purrception", "torch", "diffusers")},
        },
        "images": entries,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2))


def _command(source: str, labels: Sequence[int], settings: SamplingConfig, seed: int) -> str:
    """The command line that makes the same images again."""
    return shlex.join(
        [
            "purrception", "sample", source,
            "--classes", *[str(label) for label in labels],
            "--steps", str(settings.steps), "--solver", settings.solver,
            "--temperature", str(settings.temperature), "--guidance", str(settings.guidance),
            "--seed", str(seed),
        ]
    )  # fmt: skip
