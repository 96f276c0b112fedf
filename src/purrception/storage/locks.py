"""One writer per folder: a lock that is released even by a crash, and that says who holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import note

T = TypeVar("T")
LOCK_FILE = ".lock"
PATIENCE = 3.0
"""How many seconds a second writer waits for the first; one that was just killed takes a moment to end."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
PARTIAL = re.compile(r"\..+\.partial")
"""The names of unfinished files and folders."""
SECRET = "--password"
_held: set[Path] = set()
"""The folders whose locks this process holds; it may ask for them again."""


class TakenError(InputError):
    """A folder is in use: it is not empty, or another process is writing to it."""


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only job that writes to ``folder``, which is created if necessary, within the block.

    Every process of ``torchrun`` enters; the first one holds the lock for all. It is a lock of the system (flock)
    on the file ``.lock``, and ends with the process that holds it, however that ends. Over NFS it works between
    machines if the server supports locks (NFS 4 does). Unfinished files of a killed writer are removed, and so is
    a folder that was created but not used.

    Raises:
        InputError: another process is writing there; the message says which, where and since when.
    """
    with entered_by_the_first(_made_and_locked(folder), folder):
        yield


@contextlib.contextmanager
def entered_by_the_first(context: contextlib.AbstractContextManager[T], folder: Path) -> Iterator[T]:
    """A context that the first process of ``torchrun`` enters for all; yields what it gave that process.

    Args:
        context: what that process enters, to write to ``folder``.
        folder: named in the error of a file system that refuses.

    Raises:
        InputError: the first process could not enter; every process raises this.
    """
    with contextlib.ExitStack() as stack:
        entered, problem = None, ""
        if distributed.rank() == 0:
            try:
                entered = stack.enter_context(context)
            except InputError as error:
                problem = str(error)
            except OSError as error:
                problem = f"cannot write to {folder} ({error.strerror or error})"
        entered, problem = distributed.gather((entered, problem))[0]
        if problem:
            raise InputError(problem)
        yield entered


@contextlib.contextmanager
def _made_and_locked(folder: Path) -> Iterator[None]:
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder):
        for path in folder.iterdir():
            if PARTIAL.fullmatch(path.name) and path.is_file():
                path.unlink()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # the folder may have been removed
                if new and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                    (folder / LOCK_FILE).unlink()
                    remove_empty(new)
            raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders in this order, up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextlib.contextmanager
def locked(folder: Path, name: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of an existing folder within the block.

    Args:
        folder: the folder that contains the lock file.
        name: what errors call the folder.
        patience: how many seconds to wait for another process; by default :data:`PATIENCE`.

    Raises:
        InputError: another process holds the lock.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    descriptor = _acquire(folder, name, PATIENCE if patience is None else patience)
    _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether this process holds the lock of ``folder``."""
    return folder.resolve() in _held


def _acquire(folder: Path, name: Path, patience: float) -> int:
    """Lock the folder's lock file; returns its open descriptor."""
    file, end = folder / LOCK_FILE, time.monotonic() + patience
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its writer has just renamed or removed it
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                note(f"{name} is on a file system without locks: make sure that no other process writes there")
                return descriptor
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if time.monotonic() > end:
                who = holder or "another process"
                raise TakenError(
                    f"{who} is writing to {name}: wait until it is done, stop it, or choose another place"
                ) from error
            time.sleep(0.1)
            continue
        if _is_at(descriptor, file):
            with contextlib.suppress(OSError):  # on a full disk the lock works without a name
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _signature().encode(errors="replace"), 0)
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file still has its name: its folder may have been renamed or removed meanwhile."""
    try:
        return os.stat(file).st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False


def _signature() -> str:
    """Who holds the lock, for the errors of other processes."""
    program = Path(sys.argv[0]).name
    words = ["purrception" if program == "__main__.py" else program]
    for before, word in pairwise(sys.argv):  # everybody can read the lock file
        words.append("…" if before == SECRET else f"{SECRET}=…" if word.startswith(f"{SECRET}=") else word)
    command = shlex.join(words)[:200]
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} (since {since}: {command})"
