"""Generated images on disk: PNGs, a grid, entropy maps, and a manifest that reproduces them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from purrception.data import array_to_pil
from purrception.flow import SamplingConfig
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.storage import whole_folder, write_file
from purrception.tokenizers import fingerprint
from purrception.utils.folders import absolute
from purrception.utils.packages import versions
from purrception.utils.settings import as_options
from purrception.utils.text import command_line
from purrception.utils.visualisation import class_columns, heat_map, tile_images

MANIFEST_FILE = "manifest.json"
LARGEST_GRID = 100


def save_outputs(
    pipeline: PurrceptionPipeline,
    out: PurrceptionOutput,
    settings: SamplingConfig,
    seed: int,
    source: str,
    folder: Path,
    command: str,
) -> None:
    """Write generated or edited images to ``folder``, which appears when all its files are complete.

    ``00000.png``, … are the images. ``entropy/00000.png``, … are heat maps of the entropy of their posterior,
    averaged over the path: black where the model was certain throughout, and brightest at the largest of all
    images; a model without a posterior has none. ``grid.png`` and ``entropy.png`` show up to 100 of them.
    ``manifest.json`` holds all settings and ``command``, which makes the same images again.

    Raises:
        InputError: the folder is not empty, or the disk is full.
    """
    manifest = {
        "command": command,
        "source": absolute(source),
        "seed": seed,
        **asdict(settings),
        "nfe": out.nfe,
        "objective": pipeline.config.objective,
        "transformer_hash": fingerprint(pipeline.transformer),
        "tokenizer_hash": pipeline.tokenizer.fingerprint,
        "class_names": pipeline.class_names,
        "entropy_of_brightest": None if out.path_entropy is None else float(out.path_entropy.max()),
        "entropy_of_uniform": math.log(len(pipeline.transformer.codebook)),
        "dtype": str(pipeline.dtype),
        "device": str(pipeline.device),
        "versions": versions("torch", "diffusers"),
    }
    with whole_folder(folder) as partial:
        manifest["images"] = _save_pictures(out, partial)
        write_file(partial / MANIFEST_FILE, json.dumps(manifest, indent=2))


def _save_pictures(out: PurrceptionOutput, folder: Path) -> list[dict[str, Any]]:
    """Save the images, a grid of them and their heat maps; returns the manifest's entry of each image."""
    entries: list[dict[str, Any]] = []
    for number, image in enumerate(out.images):
        entries.append({"file": f"{number:05d}.png", "label": out.labels[number]})
        image.save(folder / entries[-1]["file"])
    columns = class_columns(out.labels[:LARGEST_GRID])
    _save_grid(out.images, columns, folder / "grid.png")
    if out.path_entropy is None:
        return entries
    (folder / "entropy").mkdir()
    maps, brightest = [], float(out.path_entropy.max())
    for image, entropy, entry in zip(out.images, out.path_entropy.numpy(), entries, strict=True):
        maps.append(heat_map(entropy, brightest, image.size))
        maps[-1].save(folder / "entropy" / entry["file"])
        entry["mean_entropy"] = float(entropy.mean())
    _save_grid(maps, columns, folder / "entropy.png")
    return entries


def _save_grid(images: list[Image.Image], columns: int, path: Path) -> None:
    """Save the first of the images as one picture, so many in a row."""
    arrays = np.stack([np.asarray(image) for image in images[:LARGEST_GRID]])
    arrays = arrays.reshape(*arrays.shape[:3], -1)
    array_to_pil(tile_images(arrays, columns, scale=max(1, 64 // arrays.shape[1]))).save(path)


def sample_command(
    pipeline: PurrceptionPipeline,
    source: str,
    labels: Sequence[int],
    settings: SamplingConfig,
    seed: int,
    defaults: SamplingConfig,
) -> str:
    """The command line that makes the same images again, from any folder.

    Args:
        pipeline: made the images.
        source: where it was loaded from.
        labels: the class of each image.
        settings: how they were sampled.
        seed: their seed.
        defaults: the settings of ``source`` where none are given; those that are equal are left out.
    """
    precision = "bfloat16" if pipeline.transformer.half_backbone else None
    own = {**requested_images(pipeline, labels), **as_options(settings, defaults)}
    return command_line(["sample", absolute(source)], {**own, "seed": seed or None, "precision": precision})


def edit_command(
    verb: str, source: str, options: Mapping[str, Any], settings: SamplingConfig, defaults: SamplingConfig
) -> str:
    """The command line that makes the same edit again, from any folder.

    Args:
        verb: the edit.
        source: where the pipeline was loaded from.
        options: those of the edit besides ``settings``; None leaves an option out.
        settings: how the images were sampled.
        defaults: the settings of ``source`` where none are given; those that are equal are left out.
    """
    files = {name: absolute(options[name]) for name in ("image", "mask") if options.get(name)}
    return command_line(["edit", verb, absolute(source)], {**options, **files, **as_options(settings, defaults)})


def requested_images(pipeline: PurrceptionPipeline, labels: Sequence[int]) -> dict[str, Any]:
    """The option of ``sample`` that asks for one image of each of these labels."""
    classes = pipeline.classes
    return {"classes": tuple(map(classes.text, labels))} if classes.count else {"num": len(labels)}
