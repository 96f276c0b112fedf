"""Where things lie on this machine: paths that hold in any working folder, and the user's cache."""

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
    """A path that means the same in any working folder.

    What names nothing here, such as an address, a hub id or an empty text, stays as it is; a pattern of tars is a
    path where its folder is here.
    """
    if not text or os.path.exists(text):
        return os.path.abspath(text) if text else text
    of_tars = text.endswith(".tar") and os.path.isdir(os.path.dirname(text) or ".")
    # In a folder whose own name reads as a pattern, a pattern stays relative.
    return os.path.abspath(text) if of_tars and not set(os.getcwd()) & set("*?[]{}") else text


def check_name(text: str) -> None:
    """Refuse a name that no text file can keep: one whose bytes are no text in the encoding of file names here.

    Raises:
        InputError: it is such a name.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the name {text!r} is no {sys.getfilesystemencoding()}, as file names are read here, and no run can "
            "keep it: rename the file or folder (names in UTF-8 are read under LC_ALL=C.UTF-8)"
        ) from error


def user_cache() -> Path:
    """``purrception`` below the user's cache, made if need be.

    A cache is a convenience: where none can be written, as without a home, the one returned lasts as long as this
    process does, and a line says so.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purrception"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # a RuntimeError: this user has no home at all
        return _passing_cache(str(error))
    return folder if os.access(folder, os.W_OK | os.X_OK) else _passing_cache(f"{folder} cannot be written")


@cache
def _passing_cache(reason: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="purrception-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.environ.get("RANK", "0") == "0":
        print(
            f"purrception: nothing is cached beyond this command ({reason}): name a folder that can be written in "
            "XDG_CACHE_HOME",
            file=sys.stderr,
        )
    return folder
