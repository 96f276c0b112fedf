"""One writer per folder: a lock that a crash frees, with the name of who holds it."""

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

from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import note

LOCK_FILE = ".lock"
PATIENCE = 3.0
"""Seconds that a second writer waits for the first: one that was just killed needs a moment to go."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
BEGUN = re.compile(r"\..+\.partial")
"""Names of what is being written, or was when its writer was killed."""
SECRET = "--password"
_held: set[Path] = set()
"""Folders that this process writes; it may ask again for one of them."""


class TakenError(InputError):
    """A place is taken: by what lies there, or by another process that is writing to it."""


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only job that writes to ``folder``, made if need be, for the length of a block.

    The first process of ``torchrun`` holds the lock for all of them; every one enters. The lock is the system's
    (flock), on the file ``.lock``: it ends with the process that holds it, however that ends. Over NFS it holds
    between machines where the server keeps locks (NFS 4 does). Files that a killed writer had begun there go, and
    so does a folder that was made in vain.

    Raises:
        InputError: another process writes there; the line says which, where and since when.
    """
    with contextlib.ExitStack() as stack:
        problem = ""
        if distributed.rank() == 0:
            try:
                stack.enter_context(_made_and_locked(folder))
            except InputError as error:
                problem = str(error)
            except OSError as error:
                problem = f"cannot write to {folder} ({error.strerror or error})"
        if problem := distributed.first_problem(problem):
            raise InputError(problem)
        yield


@contextlib.contextmanager
def _made_and_locked(folder: Path) -> Iterator[None]:
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder):
        for path in folder.iterdir():
            if BEGUN.fullmatch(path.name) and path.is_file():
                path.unlink()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # the folder may be gone: its writer removed it, or somebody else
                if new and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                    (folder / LOCK_FILE).unlink()
                    remove_empty(new)
            raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, as far as nobody has put something there."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextlib.contextmanager
def locked(folder: Path, name: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of ``folder``, which is there; errors call it ``name``.

    Args:
        folder: holds the lock's file.
        name: what errors call it.
        patience: seconds to wait for another process; None: :data:`PATIENCE`.

    Raises:
        InputError: another process holds it.
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
    """An open descriptor of the folder's lock file, locked."""
    file, end = folder / LOCK_FILE, time.monotonic() + patience
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its writer has just given it its name, or removed it
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                note(f"{name} lies on a file system without locks: see to it that no other process writes there")
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
            with contextlib.suppress(OSError):  # a full disk takes no name, and still keeps the lock
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _signature().encode(errors="replace"), 0)
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file still has its name: its folder may have been renamed or removed since."""
    try:
        return os.stat(file).st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False


def _signature() -> str:
    program = Path(sys.argv[0]).name
    words = ["purrception" if program == "__main__.py" else program]
    for before, word in pairwise(sys.argv):  # a password is not for everybody who can read the lock's file
        words.append("…" if before == SECRET else f"{SECRET}=…" if word.startswith(f"{SECRET}=") else word)
    command = shlex.join(words)[:200]
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} (since {since}: {command})"
