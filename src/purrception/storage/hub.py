"""Pipelines that travel: to and from the Hugging Face hub, and the pages that go with the weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from purrception.storage import (
    DIGESTS_FILE,
    check_digests,
    plain_reason,
    read_json,
    read_limited,
    renewing,
    write_digests,
    write_file,
)
from purrception.storage.foreign_weights import check_variant, forget_place, holds_variant
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.packages import require

INDEX_FILE, PIPELINE = "model_index.json", "PurrceptionPipeline"
PARTS = {
    "transformer": [("purrception.models.transformer", "PurrceptionTransformer")],
    "vqvae": [
        ("diffusers", "VQModel"),
        ("purrception.tokenizers.vq", "UnnormalisedVQModel"),
        ("purrception.tokenizers.vq", "RescaledVQModel"),
    ],
}
"""Folders of a pipeline's parts, and the (module, class) that each may be of."""
HUB_PREFIX = "hub:"
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
CARD, GRID, RECIPE, SAMPLING = "README.md", "samples.png", "config.yaml", "sampling.yaml"
COMPANIONS = (CARD, GRID, RECIPE, SAMPLING)
"""Files beside the weights that describe them: the model card, a grid of samples, the run's configuration, and how
they are sampled unless somebody says otherwise."""
LARGEST_COMPANION = 2**26
"""Bytes."""


@dataclass(frozen=True)
class PipelineIndex:
    """``model_index.json``: what parts a pipeline has, and what it was trained for."""

    transformer: tuple[str, str]
    """(module, class), of those in :data:`PARTS`."""
    vqvae: tuple[str, str]
    objective: str = "purrception"
    tokenizer_hash: str = ""
    class_names: list[str] | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check it: nothing that it names is imported, whatever it names.

        Raises:
            InputError: it is of another kind of pipeline.
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
    """What the index of a folder says, if its files are those that were saved.

    Raises:
        InputError: there is none, a file is damaged, or it is of another kind of pipeline.
    """
    if not (folder / INDEX_FILE).is_file():
        raise InputError(f"no pipeline in {folder}: {INDEX_FILE} is missing; one of the hub is hub:OWNER/NAME")
    if verify:
        check_digests(folder, missing=False)
    return PipelineIndex.read(folder)


def variants(folder: Path, variant: str | None) -> dict[str, str | None]:
    """The variant of each part's weights: the one asked for, or none where a part has only plain ones.

    Raises:
        InputError: no part has that variant.
    """
    check_variant(variant)
    held = {part: variant if holds_variant(folder / part, variant) else None for part in PARTS}
    if variant and not any(held.values()):
        raise InputError(f"cannot load the pipeline in {folder}: it has no weights of the variant {variant!r}")
    return held


def read_companions(folder: Path) -> dict[str, bytes]:
    """What describes the weights in ``folder``, by file name.

    They travel on with the weights: one that is a link out of the folder would take somebody's own file along.

    Raises:
        InputError: one is such a link, or too large.
    """
    # The hub's cache keeps files under their digests, and links to them.
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    found = {}
    for name in COMPANIONS:
        if (folder / name).is_file():
            if (folder / name).resolve().parent not in homes:
                raise InputError(f"{folder / name} is a link out of its folder: put the file itself there")
            found[name] = read_limited(folder / name, LARGEST_COMPANION, "what describes a pipeline")
    return found


def write_companions(companions: Mapping[str, bytes], folder: Path) -> None:
    """Put them back beside the weights, and their digests into the index where there is one.

    Raises:
        InputError: the disk is full.
    """
    with renewing(folder, [name for name in companions if name not in (CARD, GRID)]):
        for name, content in companions.items():
            write_file(folder / name, content)


@contextlib.contextmanager
def sealed(folder: Path, companions: Mapping[str, bytes]) -> Iterator[None]:
    """Around the writing of the parts: in the end what describes them is there, no trace of where they were loaded
    from, and every file's SHA-256.

    The card and the grid, which people edit, are not listed.

    Raises:
        InputError: the disk is full.
    """
    (folder / DIGESTS_FILE).unlink(missing_ok=True)  # that of other weights
    yield
    for part in PARTS:
        forget_place(folder / part / "config.json")
    write_companions(companions, folder)
    write_digests(folder, mine=lambda name: name not in (CARD, GRID))


def local_folder(source: Path | str, revision: str | None = None) -> Path:
    """Where a pipeline lies on this machine; one of the hub is fetched, or found in its cache.

    Only configurations, safetensors weights, their digests and the pages beside them are fetched, never code.

    Args:
        source: a folder, or ``hub:owner/name``: the hub is asked for nothing that is not named so.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: no model on the hub can have that name, or it cannot be had.
    """
    if not str(source).startswith(HUB_PREFIX):
        return Path(source)
    name = str(source).removeprefix(HUB_PREFIX)
    if not HUB_ID.fullmatch(name):
        raise InputError(f"a pipeline on the hub is {HUB_PREFIX}owner/name; given {str(source)!r}")
    hub = require("huggingface_hub", f"a pipeline of the hub, {name},")
    patterns = ["*.json", "*.safetensors", DIGESTS_FILE, *COMPANIONS]
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no such repository, no network, no right to read it
        raise InputError(f"no pipeline at {name} on the hub: {plain_reason(error)}") from error


def upload(folder: Path, name: str, private: bool, token: str | None = None) -> str:
    """Put a folder on the hub as the model ``owner/name``, made if need be; returns its address.

    Raises:
        InputError: no such name can be written, or the hub cannot be reached.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(f"a model on the hub is owner/name; given {name!r}")
    api = require("huggingface_hub", "an upload to the hub").HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights and card by purrception")
    except Exception as error:  # no network, no right to write, a name that is taken
        reason = " ".join(str(error).split())
        raise InputError(f"cannot upload to {name}: {reason}") from error
    return str(address)
