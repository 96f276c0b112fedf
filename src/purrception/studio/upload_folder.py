"""The folder of uploaded files: which files are in it, how large they may be, and how long they stay."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from purrception.storage import one_writer
from purrception.storage.locks import locked
from purrception.studio.addresses import client_of
from purrception.utils.errors import InputError

LARGEST_TOTAL = 200 * 2**20
"""Bytes of all files that the page keeps for its visitors; those unused for longest are removed first."""
MAX_FILES = 2000
LARGEST_SHARE = 100 * 2**20
"""Bytes that one client may upload in an hour."""
OLDEST = 3600.0
"""Seconds after which an unused file is removed."""
YOUNG = 60.0
"""Seconds for which a file always stays, because it may be about to be used."""
MAX_CLIENTS = 1024
"""Number of clients whose uploads are counted; the one inactive for longest is forgotten first."""


class UploadFolder:
    """The folder of the files that visitors upload and that the page shows.

    Args:
        folder: its path.
        clock: returns seconds since 1970, like the modification time of a file.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        self._page_files: frozenset[Path] = frozenset()
        self._session_files: dict[str, set[Path]] = {}
        self._uploaded: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def holds(self, path: str) -> bool:
        """Whether ``path`` lies below the folder; a file there counts as used now."""
        try:
            file = Path(path).resolve()
            if self.folder.resolve() not in file.parents:
                return False
            if file.is_file():
                file.touch()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a loop of links
            return False
        return True

    def keep_present(self) -> None:
        """Keep the present files, which belong to the page itself."""
        self._page_files = frozenset(self._files())

    def charge(self, address: str, size: int) -> bool:
        """Count bytes that a client uploads; returns whether they are within its limit for this hour."""
        now, client = self._clock(), client_of(address)
        since, sent = self._uploaded.get(client, (now, 0))
        if now - since > OLDEST:
            since, sent = now, 0
        self._uploaded[client] = (since, sent + size)
        self._uploaded.move_to_end(client)
        if len(self._uploaded) > MAX_CLIENTS:
            self._uploaded.popitem(last=False)
        return sent + size <= LARGEST_SHARE

    def tidy(self, room: int = 0) -> bool:
        """Remove old files, and those beyond the limits; returns whether there is room for ``room`` more bytes."""
        dated, total = [], 0
        for file in self._files():
            with contextlib.suppress(OSError):  # removed in the meantime
                stat = file.stat()
                total += stat.st_size
                dated.append((stat.st_mtime, stat.st_size, file))
        number = len(dated)
        for used, size, file in sorted(dated):
            age = self._clock() - used
            crowded = total + room > LARGEST_TOTAL or number >= MAX_FILES
            if file not in self._page_files and age > (YOUNG if crowded else OLDEST):
                self._remove(file)
                total, number = total - size, number - 1
        return total + room <= LARGEST_TOTAL and number < MAX_FILES

    def register(self, session: str, path: Any) -> None:
        """Note that a session uploaded a file; see :meth:`remove_session`."""
        if isinstance(path, str) and self.holds(path):
            self._session_files.setdefault(session, set()).add(Path(path).resolve())

    def remove_session(self, session: str) -> None:
        """Remove the files of a session, except those that another has uploaded as well."""
        own = self._session_files.pop(session, set())
        for file in own.difference(*self._session_files.values()):
            self._remove(file)

    def _remove(self, file: Path) -> None:
        with contextlib.suppress(OSError):
            file.unlink()
            if file.parent != self.folder:  # gradio puts each file into its own folder
                file.parent.rmdir()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def process_folder(parent: Path) -> Iterator[Path]:
    """An empty folder below ``parent`` for this process, removed at the end; those of dead processes are removed.

    Raises:
        InputError: the folder cannot be made.
    """
    own = parent / secrets.token_hex(8)
    with one_writer(own):
        for other in parent.iterdir():
            if not other.is_dir():
                other.unlink(missing_ok=True)
            elif other != own:  # a process that is alive holds its lock
                with (
                    contextlib.suppress(InputError, OSError),
                    locked(other, other, patience=0),
                ):
                    shutil.rmtree(other, ignore_errors=True)
        files = own / "files"  # the lock beside it must not be served
        files.mkdir()
        try:
            yield files
        finally:
            shutil.rmtree(own, ignore_errors=True)
