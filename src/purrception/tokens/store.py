"""Where token shards are: in a local folder, or at any address that fsspec knows, with a local cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from purrception.storage import plain_name, remove, sha256_of, whole_file
from purrception.utils.errors import InputError, in_words
from purrception.utils.folders import user_cache
from purrception.utils.packages import explained, require


class TokenStore:
    """The files of one folder, local or remote.

    Args:
        location: a folder, or an address such as ``s3://bucket/tokens/train``, whose files are kept in the user's
            cache.
    """

    def __init__(self, location: Path | str) -> None:
        address = str(location).removeprefix("file://")
        self.remote = "://" in address
        self.folder = Path(address)
        if self.remote:
            self.folder = user_cache(hashlib.sha256(address.encode()).hexdigest()[:16])
        self._address = address.rstrip("/")

    def fetch(self, file: str, *, sha256: str = "", cached: bool = False) -> Path | None:
        """The local path of a file, or ``None`` where there is no such file.

        Args:
            file: its name in the folder; never a path.
            sha256: the expected digest of a file from an address; a download with another one is discarded.
            cached: whether a copy in the cache will do, if it has that digest.

        Raises:
            InputError: the name leads out of the folder, the address cannot be reached or needs a package that is
                not installed, or the file is not the expected one.
        """
        path = self.folder / plain_name(file, self._address)
        if not self.remote:
            return path if path.is_file() else None
        if cached and path.is_file() and sha256 in ("", sha256_of(path)):
            return path
        fsspec = require("fsspec", f"reading {self._address}")
        try:
            files, remote_path = fsspec.core.url_to_fs(f"{self._address}/{file}")
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                files.get_file(remote_path, str(partial))
                if partial.is_dir():
                    remove(partial)
                    raise InputError(f"{self._address}/{file} is a folder, where a file is expected")
                if sha256 and sha256_of(partial) != sha256:
                    raise InputError(
                        f"{self._address}/{file} is truncated or altered (its SHA-256 is not the manifest's) and "
                        "is not used: encode the images again, or copy the shards there once more"
                    )
        except InputError:
            raise
        except FileNotFoundError:
            return None
        except ImportError as error:  # a package for this kind of address, such as s3fs
            raise explained(error, f"reading {self._address}") from error
        except Exception as error:  # every file system has errors of its own
            raise InputError(f"cannot read {self._address}/{file}: {in_words(error)}") from error
        return path
