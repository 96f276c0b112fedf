"""Where token shards lie: a local folder, or any address that fsspec knows, kept in a local cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from purrception.storage import plain_name, remove, sha256_of
from purrception.utils.errors import InputError
from purrception.utils.folders import user_cache
from purrception.utils.packages import explained, require


class TokenStore:
    """Files of one folder, local or remote.

    Args:
        location: a folder, or an address such as ``s3://bucket/tokens/train``.
        cache: where files of an address are kept; default: a folder of its own below the user's cache.
    """

    def __init__(self, location: Path | str, cache: Path | None = None) -> None:
        address = str(location).removeprefix("file://")
        self.remote = "://" in address
        self.folder = (cache or _default_cache(address)) if self.remote else Path(address)
        self._address = address.rstrip("/")

    def fetch(self, file: str, *, sha256: str = "", cached: bool = False) -> Path | None:
        """The local path of a file, or ``None`` where there is none.

        Args:
            file: its name in the folder; never a path.
            sha256: what a file of an address must have; one that arrives with another never takes its name here.
            cached: whether a copy that is already here will do, if it has that SHA-256.

        Raises:
            InputError: the name leads elsewhere, the address cannot be reached or needs a package that is not
                installed, or the file is not the one expected.
        """
        path = self.folder / plain_name(file, self._address)
        if not self.remote:
            return path if path.is_file() else None
        if cached and path.is_file() and sha256 in ("", sha256_of(path)):
            return path
        fsspec = require("fsspec", f"reading {self._address}")

        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            files, below = fsspec.core.url_to_fs(f"{self._address}/{file}")
            self.folder.mkdir(parents=True, exist_ok=True)
            files.get_file(below, str(partial))
            if partial.is_dir():
                raise InputError(f"{self._address}/{file} is a folder, where a file is expected")
            if sha256 and sha256_of(partial) != sha256:
                raise InputError(
                    f"{self._address}/{file} is truncated or altered (its SHA-256 is not the manifest's): it is "
                    "not taken; encode the images again, or copy the shards there once more"
                )
            os.replace(partial, path)
        except InputError:
            raise
        except FileNotFoundError:
            return None
        except ImportError as error:  # a package for this kind of address, such as s3fs
            raise explained(error, f"reading {self._address}") from error
        except Exception as error:  # every file system has errors of its own
            raise InputError(f"cannot read {self._address}/{file}: {' '.join(str(error).split())}") from error
        finally:
            with contextlib.suppress(OSError):  # a file that was taken is gone; an error is the one to be told
                remove(partial)
        return path


def _default_cache(address: str) -> Path:
    return user_cache() / hashlib.sha256(address.encode()).hexdigest()[:16]
