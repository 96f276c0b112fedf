"""To and from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from purrception.storage.digests import DIGESTS_FILE
from purrception.storage.files import plain_name
from purrception.storage.names import HUB_PREFIX
from purrception.storage.pipeline_folder import COMPANIONS, SAMPLING
from purrception.storage.readers import plain_reason
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import require

REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class HubOptions:
    """How files of the hub are looked up; the names are those of the hub's client."""

    revision: str | None = None
    """A branch, tag or commit."""
    token: str | bool | None = None
    """The token to read with; by default the one of ``hf auth login``."""
    cache_dir: Path | str | None = None
    """The folder of downloads; by default the hub's cache."""
    local_files_only: bool = False
    """Whether to take what is in the cache and never ask the hub."""
    force_download: bool = False
    """Whether to download again what is in the cache."""


def local_folder(source: Path | str, subfolder: str = "", options: HubOptions | None = None) -> Path:
    """The folder of a pipeline on this machine; one on the hub is downloaded, or found in the hub's cache.

    Only configurations, safetensors weights, their digests and the companion files are downloaded, never code.

    Args:
        source: a folder, or ``hub:owner/name``. Without that prefix the hub is never asked.
        subfolder: where in it the pipeline is.
        options: how the hub is asked.

    Raises:
        InputError: no model on the hub can have that name, or it cannot be downloaded.
    """
    if not str(source).startswith(HUB_PREFIX):
        return Path(source, subfolder)
    name = str(source).removeprefix(HUB_PREFIX)
    if not REPOSITORY.fullmatch(name):
        raise InputError(f"a pipeline on the hub is {HUB_PREFIX}owner/name; given {str(source)!r}")
    patterns = ["*.json", "*.safetensors", DIGESTS_FILE, *COMPANIONS, SAMPLING]
    return download(f"{name}/{subfolder}".rstrip("/"), "pipeline", patterns, options)


def download(name: str, what: str, patterns: Iterable[str], options: HubOptions | None = None) -> Path:
    """Files of a model on the hub: the folder that they are in on this machine.

    Args:
        name: ``owner/name``, or ``owner/name/subfolder``.
        what: what the model is, for errors: ``"pipeline"``.
        patterns: the names of the files in that folder, with wildcards.
        options: how the hub is asked.

    Raises:
        InputError: there is no such model, or it cannot be downloaded.
    """
    owner, repository, *subfolder = (plain_name(part, f"{HUB_PREFIX}{name}") for part in name.split("/"))
    files = [str(PurePosixPath(*subfolder, pattern)) for pattern in patterns]
    hub = require("huggingface_hub", f"a {what} of the hub, {name},")
    try:
        asked = asdict(options or HubOptions())
        folder = hub.snapshot_download(f"{owner}/{repository}", allow_patterns=files, **asked)
    except Exception as error:  # no such repository, no network, no permission
        raise InputError(f"no {what} at {name} on the hub: {plain_reason(error)}") from error
    return Path(folder, *subfolder)


def upload(
    folder: Path, name: str, private: bool | None = None, token: str | None = None, **commit: str | bool | None
) -> str:
    """Upload a folder to the hub as the model ``owner/name``, created if necessary; returns its address.

    Args:
        folder: what to upload.
        name: ``owner/name``.
        private: whether a new model is private; by default as its owner has chosen on the hub.
        token: the token to write with; by default the one of ``hf auth login``.
        commit: ``commit_message``, ``revision`` (a branch) and ``create_pr``, as the hub's client takes them.

    Raises:
        InputError: there can be no model of that name, or the hub cannot be reached.
    """
    if not REPOSITORY.fullmatch(name):
        raise InputError(f"a model on the hub is owner/name; given {name!r}")
    api = require("huggingface_hub", "an upload to the hub").HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, **commit)
    except Exception as error:  # no network, no permission, a name that is taken
        raise InputError(f"cannot upload to {name}: {in_words(error)}") from error
    return str(address)
