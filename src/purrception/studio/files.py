"""The files of those who have the page open: where they lie, how many, how long."""

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
from purrception.studio.attempts import visitor_of
from purrception.utils.errors import InputError

LARGEST_TOTAL = 200 * 2**20
"""Bytes of all files that the page keeps for its visitors; the longest unused go first."""
MOST_FILES = 2000
LARGEST_SHARE = 100 * 2**20
"""Bytes that one address may send in an hour."""
OLDEST = 3600.0
"""Seconds after which a file that nobody uses goes."""
YOUNG = 60.0
"""Seconds that a file stays in any case: somebody may be about to use it."""
ADDRESSES = 1024


class Uploads:
    """The folder of what visitors bring and of what the page shows them.

    Args:
        folder: it.
        clock: seconds since 1970, as files are dated.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        self._of_the_page: frozenset[Path] = frozenset()
        self._brought: dict[str, set[Path]] = {}
        self._sent: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def holds(self, path: str) -> bool:
        """Whether ``path`` is one of a file below the folder; such a file counts as used now."""
        try:
            file = Path(path).resolve()
            if self.folder.resolve() not in file.parents:
                return False
            if file.is_file():
                file.touch()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a circle of links
            return False
        return True

    def keep_present(self) -> None:
        """What is there now belongs to the page itself, and stays."""
        self._of_the_page = frozenset(self._files())

    def charge(self, address: str, size: int) -> bool:
        """Count bytes that an address sends; whether they fit into its share of this hour."""
        now, visitor = self._clock(), visitor_of(address)
        since, sent = self._sent.get(visitor, (now, 0))
        if now - since > OLDEST:
            since, sent = now, 0
        self._sent[visitor] = (since, sent + size)
        self._sent.move_to_end(visitor)
        if len(self._sent) > ADDRESSES:
            self._sent.popitem(last=False)
        return sent + size <= LARGEST_SHARE

    def tidy(self, room: int = 0) -> bool:
        """Remove what is old, and the longest unused beyond the limits; whether ``room`` bytes are there now."""
        dated, total = [], 0
        for file in self._files():
            with contextlib.suppress(OSError):  # gone meanwhile
                stat = file.stat()
                total += stat.st_size
                dated.append((stat.st_mtime, stat.st_size, file))
        number = len(dated)
        for used, size, file in sorted(dated):
            age = self._clock() - used
            crowded = total + room > LARGEST_TOTAL or number >= MOST_FILES
            if file not in self._of_the_page and age > (YOUNG if crowded else OLDEST):
                self._forget(file)
                total, number = total - size, number - 1
        return total + room <= LARGEST_TOTAL and number < MOST_FILES

    def bring(self, session: str, path: Any) -> None:
        """Remember whose a file is; see :meth:`leave`."""
        if isinstance(path, str) and self.holds(path):
            self._brought.setdefault(session, set()).add(Path(path).resolve())

    def leave(self, session: str) -> None:
        """Remove what a visitor brought, unless another brought the same."""
        mine = self._brought.pop(session, set())
        for file in mine.difference(*self._brought.values()):
            self._forget(file)

    def _forget(self, file: Path) -> None:
        with contextlib.suppress(OSError):
            file.unlink()
            if file.parent != self.folder:  # gradio gives each its own
                file.parent.rmdir()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """An empty folder below ``parent`` for this process alone, removed in the end; those of dead ones go first.

    Raises:
        InputError: the disk will not have it.
    """
    mine = parent / secrets.token_hex(8)
    with one_writer(mine):
        for other in parent.iterdir():
            if not other.is_dir():
                other.unlink(missing_ok=True)
            elif other != mine:  # whoever is alive holds its lock
                with (
                    contextlib.suppress(InputError, OSError),
                    locked(other, other, patience=0),
                ):
                    shutil.rmtree(other, ignore_errors=True)
        files = mine / "files"  # beside the lock, which nobody may fetch
        files.mkdir()
        try:
            yield files
        finally:
            shutil.rmtree(mine, ignore_errors=True)
