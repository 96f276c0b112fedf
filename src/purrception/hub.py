"""Pipelines that travel: to and from the Hugging Face hub, and the pages that go with the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from purrception.errors import InputError
from purrception.packages import require
from purrception.storage import write_file

HUB_PREFIX = "hub:"
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
CARD, GRID, RECIPE, SAMPLING = "README.md", "samples.png", "config.yaml", "sampling.yaml"
COMPANIONS = (CARD, GRID, RECIPE, SAMPLING)
"""Files beside the weights that describe them: the model card, a grid of samples, the run's configuration, and how
they are sampled unless somebody says otherwise."""


def read_companions(folder: Path) -> dict[str, bytes]:
    """What describes the weights in ``folder``, by file name."""
    return {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}


def write_companions(companions: Mapping[str, bytes], folder: Path) -> None:
    """Put them back beside the weights."""
    for name, content in companions.items():
        write_file(folder / name, content)


def local_folder(source: Path | str, revision: str | None = None) -> Path:
    """Where a pipeline lies on this machine; one of the hub is fetched, or found in its cache.

    Only configurations, safetensors weights and the pages beside them are fetched, never code.

    Args:
        source: a folder, or ``owner/name`` or ``hub:owner/name`` where no such folder is.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is neither, or the hub cannot be reached.
    """
    name = str(source).removeprefix(HUB_PREFIX)
    if Path(source).exists() or not HUB_ID.fullmatch(name):
        return Path(source)
    hub = require("huggingface_hub", f"a pipeline of the hub, {name},")
    patterns = ["*.json", "*.safetensors", *COMPANIONS]
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no such repository, no network, no right to read it
        reason = " ".join(str(error).split())
        raise InputError(f"no pipeline at {name}, neither a folder here nor on the hub: {reason}") from error


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
