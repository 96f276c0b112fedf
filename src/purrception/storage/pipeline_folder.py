"""The folder of a saved pipeline: its index, its parts, and the files that describe its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from purrception.storage.digests import DIGESTS_FILE, check_digests, updating_digests, write_digests
from purrception.storage.files import write_file
from purrception.storage.model_folder import check_variant, forget_load_path, variants_in
from purrception.storage.names import INDEX_FILE
from purrception.storage.readers import read_json, read_limited
from purrception.utils.errors import InputError, unknown_name

PIPELINE = "PurrceptionPipeline"
PARTS = {
    "transformer": [("purrception.models.transformer", "PurrceptionTransformer")],
    "vqvae": [
        ("diffusers", "VQModel"),
        ("purrception.tokenizers.vq", "UnnormalisedVQModel"),
        ("purrception.tokenizers.vq", "RescaledVQModel"),
    ],
}
"""The folder of each part of a pipeline, and the (module, class) pairs that it may be."""
CARD, SAMPLES, CONFIG, SAMPLING = "README.md", "samples.png", "config.yaml", "sampling.yaml"
COMPANIONS = (CARD, SAMPLES, CONFIG, SAMPLING)
"""Companion files, which describe the weights and travel with them: the model card, a picture of samples, the
run's configuration, and its default sampling options."""
EDITABLE = (CARD, SAMPLES)
"""Companion files that people edit, and that are therefore not listed with a digest."""
LARGEST_COMPANION = 2**26
"""The largest companion file, in bytes."""


@dataclass(frozen=True)
class PipelineIndex:
    """``model_index.json``: what parts a pipeline has, and what it was trained for."""

    transformer: tuple[str, str]
    """A (module, class) pair of those in :data:`PARTS`."""
    vqvae: tuple[str, str]
    """A (module, class) pair of those in :data:`PARTS`."""
    objective: str = "purrception"
    """The name of the training objective."""
    tokenizer_hash: str = ""
    """The fingerprint of the tokenizer whose codes were learned."""
    class_names: list[str] | None = None
    """The names of the classes by label, where they have names."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the index; nothing that it names is imported.

        Raises:
            InputError: the index is of another kind of pipeline.
        """
        file, what = folder / INDEX_FILE, "the index of a pipeline"
        values: dict[str, Any] = read_json(file, dict[str, Any], what)
        if values.get("_class_name") != PIPELINE:
            raise InputError(f"{file} is of a {str(values.get('_class_name'))[:100]!r}, expected {PIPELINE}")
        for key in values:
            if not key.startswith("_") and key not in cls.__dataclass_fields__:
                raise unknown_name(f"key in {file}:", key, cls.__dataclass_fields__)
        index: Self = read_json(file, cls, what)
        for part, known in PARTS.items():
            given = getattr(index, part)
            if given not in known:
                accepted = " or ".join(".".join(one) for one in known)
                raise InputError(f"{file}: its {part} is a {'.'.join(given)[:200]}; accepted are {accepted}")
        return index


def check_pipeline(folder: Path, verify: bool) -> PipelineIndex:
    """The index of a pipeline's folder, once its files are known to be those that were saved.

    Raises:
        InputError: there is no pipeline, a file is damaged, or it is of another kind of pipeline.
    """
    if not (folder / INDEX_FILE).is_file():
        raise InputError(f"no pipeline in {folder}: {INDEX_FILE} is missing; one of the hub is hub:OWNER/NAME")
    if verify:
        check_digests(folder, missing=False)
    return PipelineIndex.read(folder)


def part_variants(folder: Path, variant: str | None) -> dict[str, str | None]:
    """The variant to load of each part's weights: the one asked for, or none where a part does not have it.

    Raises:
        InputError: no part has that variant.
    """
    check_variant(variant)
    found = {part: variant if variant in variants_in(folder / part) else None for part in PARTS}
    if variant and not any(found.values()):
        raise InputError(f"cannot load the pipeline in {folder}: it has no weights of the variant {variant!r}")
    return found


def read_companions(folder: Path) -> dict[str, bytes]:
    """The companion files of the weights in ``folder``, by name.

    They are saved and uploaded with the weights, so that a link out of the folder would publish somebody's file.

    Raises:
        InputError: a file is such a link, or too large.
    """
    # The hub's cache stores files under their digests, and links to them.
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    found = {}
    for name in COMPANIONS:
        if (folder / name).is_file():
            if (folder / name).resolve().parent not in homes:
                raise InputError(f"{folder / name} is a link out of its folder: put the file itself there")
            found[name] = read_limited(folder / name, LARGEST_COMPANION, "what describes a pipeline")
    return found


def write_companions(companions: Mapping[str, bytes], folder: Path) -> None:
    """Write companion files beside the weights, and their digests to the index of digests where there is one.

    Raises:
        InputError: the disk is full.
    """
    with updating_digests(folder, [name for name in companions if name not in EDITABLE]):
        for name, content in companions.items():
            write_file(folder / name, content)


@contextlib.contextmanager
def saving_pipeline(folder: Path, companions: Mapping[str, bytes]) -> Iterator[None]:
    """Around the saving of the parts: then adds companions and digests, and removes where parts were loaded from.

    Raises:
        InputError: the disk is full.
    """
    (folder / DIGESTS_FILE).unlink(missing_ok=True)  # it lists the files of earlier weights
    yield
    for part in PARTS:
        forget_load_path(folder / part / "config.json")
    write_companions(companions, folder)
    write_digests(folder, mine=lambda name: name not in EDITABLE)
