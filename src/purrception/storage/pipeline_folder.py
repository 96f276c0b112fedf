"""The folder of a saved pipeline: its index, its parts, and the files that describe its weights."""

from __future__ import annotations

import contextlib
import json
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
CODE_FILE, PORTABLE_PIPELINE = "pipeline.py", "PurrceptionGenerationPipeline"
"""The file, and the class in it, by which diffusers opens a pipeline without this package; never run here."""
PARTS = {
    "transformer": [("purrception.models.transformer", "PurrceptionTransformer")],
    "vqvae": [
        ("diffusers", "VQModel"),
        ("purrception.tokenizers.vq", "UnnormalisedVQModel"),
        ("purrception.tokenizers.vq", "RescaledVQModel"),
    ],
    "scheduler": [("purrception.generation.scheduler", "PurrceptionScheduler")],
}
"""The folder of each part of a pipeline, and the (module, class) pairs that it may be. Where the code of a part
lies beside it, the last word of the module stands for it: the name of the file there."""
MODELS = ("transformer", "vqvae")
"""The parts that have weights."""
SCHEDULER = "scheduler/scheduler_config.json"
"""The file of the sampling settings."""
SAMPLING = "sampling.yaml"
"""The file in which earlier versions saved the sampling settings."""
CARD, SAMPLES, CONFIG = "README.md", "samples.png", "config.yaml"
COMPANIONS = (CARD, SAMPLES, CONFIG)
"""Companion files, which describe the weights and travel with them: the model card, a picture of samples, and the
run's configuration."""
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
    scheduler: tuple[str, str] | None = None
    """A (module, class) pair of those in :data:`PARTS`; pipelines of earlier versions have none."""
    objective: str = "purrception"
    """The name of the training objective."""
    tokenizer_hash: str = ""
    """The fingerprint of the tokenizer whose codes were learned."""
    class_names: list[str] | None = None
    """The names of the classes by label, where they have names."""

    @property
    def portable(self) -> bool:
        """Whether the code of its parts lies beside them."""
        return self.transformer not in PARTS["transformer"]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the index; nothing that it names is imported.

        Raises:
            InputError: the index is of another kind of pipeline.
        """
        file, what = folder / INDEX_FILE, "the index of a pipeline"
        values: dict[str, Any] = read_json(file, dict[str, Any], what)
        if values.get("_class_name") not in (PIPELINE, [_word(CODE_FILE), PORTABLE_PIPELINE]):
            raise InputError(f"{file} is of a {str(values.get('_class_name'))[:100]!r}, expected {PIPELINE}")
        for key in values:
            if not key.startswith("_") and key not in cls.__dataclass_fields__:
                raise unknown_name(f"key in {file}:", key, cls.__dataclass_fields__)
        index: Self = read_json(file, cls, what)
        for part, known in PARTS.items():
            given = getattr(index, part)
            if given is not None and given not in [*known, *map(_beside, known)]:
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
    found = {part: variant if variant in variants_in(folder / part) else None for part in MODELS}
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


def write_code(code: Mapping[str, str], folder: Path) -> None:
    """Write code beside the parts that it belongs to, and name it in the index, where diffusers looks for it.

    Args:
        code: the files, by their names in the folder.
        folder: the pipeline's.

    Raises:
        InputError: the disk is full.
    """
    index: dict[str, Any] = read_json(folder / INDEX_FILE, dict[str, Any], "the index of a pipeline")
    for name, text in code.items():
        write_file(folder / name, text)
        if name == CODE_FILE:
            index["_class_name"] = (_word(CODE_FILE), PORTABLE_PIPELINE)
        else:
            part = name.partition("/")[0]
            index[part] = _beside(index[part])
    write_file(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")


def _beside(pair: tuple[str, str]) -> tuple[str, str]:
    """The (module, class) pair of a part whose code lies beside it."""
    return _word(f"{pair[0]}.py") if pair[0] != "diffusers" else pair[0], pair[1]


def _word(name: str) -> str:
    """The last word of a module's name, with ``.py`` at its end."""
    return name.removesuffix(".py").rpartition(".")[2]


def write_scheduler(config: str, folder: Path) -> None:
    """Replace the sampling settings of a saved pipeline; one of an earlier version gets a scheduler.

    Args:
        config: the content of its file.
        folder: the pipeline's.

    Raises:
        InputError: the index of the pipeline is damaged, or the disk is full.
    """
    index: dict[str, Any] = read_json(folder / INDEX_FILE, dict[str, Any], "the index of a pipeline")
    with updating_digests(folder, [SCHEDULER, INDEX_FILE, SAMPLING]):
        (folder / SCHEDULER).parent.mkdir(exist_ok=True)
        write_file(folder / SCHEDULER, config)
        if "scheduler" not in index:
            index["scheduler"] = PARTS["scheduler"][0]
            write_file(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
        (folder / SAMPLING).unlink(missing_ok=True)


@contextlib.contextmanager
def saving_pipeline(folder: Path, companions: Mapping[str, bytes], code: Mapping[str, str]) -> Iterator[None]:
    """Around the saving of the parts: then adds companions and digests, and removes where parts were loaded from.

    Args:
        folder: the pipeline's.
        companions: companion files, by name.
        code: files of code, by name; see :func:`write_code`.

    Raises:
        InputError: the disk is full.
    """
    (folder / DIGESTS_FILE).unlink(missing_ok=True)  # it lists the files of earlier weights
    (folder / SAMPLING).unlink(missing_ok=True)  # of an earlier version
    yield
    for part in MODELS:
        forget_load_path(folder / part / "config.json")
    for name, content in companions.items():
        write_file(folder / name, content)
    if code:
        write_code(code, folder)
    write_digests(folder, mine=lambda name: name not in EDITABLE)
