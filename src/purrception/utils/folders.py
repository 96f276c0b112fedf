"""Paths on this machine: absolute ones, names that can be written to a file, and the user's cache."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from purrception.utils.errors import InputError


def absolute(text: str) -> str:
    """A path that means the same in any working directory.

    Text that names no file here, such as an address, a hub id or nothing, stays as it is. A pattern of tars counts
    as a path where its folder exists.
    """
    if not text or os.path.exists(text):
        return os.path.abspath(text) if text else text
    of_tars = text.endswith(".tar") and os.path.isdir(os.path.dirname(text) or ".")
    # In a folder whose own name would be read as a pattern, a pattern stays relative.
    return os.path.abspath(text) if of_tars and not set(os.getcwd()) & set("*?[]{}") else text


def check_name(text: str) -> None:
    """Refuse a file name that cannot be written to a text file: its bytes are not valid in the system's encoding.

    Raises:
        InputError: the name is not valid text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the name {text!r} is not valid {sys.getfilesystemencoding()}, the encoding of file names here, and "
            "cannot be recorded: rename the file or folder (names in UTF-8 are read under LC_ALL=C.UTF-8)"
        ) from error


def user_cache(name: str) -> Path:
    """The folder ``purrception/name`` of the user's cache; ``purrception`` is created if necessary.

    Where no cache can be written, for example without a home directory, a temporary folder that lasts as long as
    this process takes its place, and a line says so.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purrception"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # a RuntimeError: this user has no home at all
        return _temporary_cache(str(error)) / name
    if not os.access(folder, os.W_OK | os.X_OK):
        return _temporary_cache(f"{folder} cannot be written") / name
    return folder / name


@cache
def _temporary_cache(reason: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="purrception-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.environ.get("RANK", "0") == "0":
        print(
            f"purrception: nothing is cached beyond this command ({reason}): name a folder that can be written in "
            "XDG_CACHE_HOME",
            file=sys.stderr,
        )
    return folder
