"""Reading files of unknown origin: within limits, checked against a schema, with one line for any error."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from purrception.utils.errors import InputError, in_words

T = TypeVar("T")
LARGEST_TEXT = 2**26
"""The largest JSON file, in bytes."""
LARGEST_YAML = 2**18
"""The largest YAML file, in bytes; those of this package have a few thousand."""


@contextlib.contextmanager
def reading(what: str, path: object, remedy: str = "") -> Iterator[None]:
    """Around the reading of a file: turns any error into one line that names the file.

    Every kind of error is caught, because a damaged or hostile file can raise anything in the libraries that parse
    it.

    Args:
        what: what the file is expected to be, with its article: ``"a token manifest"``.
        path: the path or address of the file.
        remedy: what the user can do.

    Raises:
        InputError: the file cannot be read; an InputError raised inside passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # RecursionError and MemoryError are among them
        raise InputError(
            f"{path} is not {what} that can be read: {plain_reason(error)}{remedy and f'; {remedy}'}"
        ) from error


def plain_reason(error: BaseException) -> str:
    """The message of an error in one line of moderate length."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        inner = first.get("ctx", {}).get("error")
        if isinstance(inner, InputError):
            return str(inner)
        where = ".".join(repr(part).strip("'") for part in first["loc"])[:100]
        return f"{where and f'{where}: '}{first['msg']}; given {repr(first['input'])[:100]}"
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    text = in_words(error)[:200]
    return f"no {text}" if isinstance(error, KeyError) else text or type(error).__name__


def read_limited(path: Path, limit: int, what: str) -> bytes:
    """The content of a file of at most ``limit`` bytes.

    Raises:
        InputError: the file is missing, too large, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path} has {size} bytes; {what} has at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path, kind: type[T] | Any, what: str, remedy: str = "") -> T:
    """Read a JSON file strictly as ``kind``, a dataclass or another type that pydantic can check.

    Args:
        path: the file.
        kind: the type of its content.
        what: what the file is expected to be, with its article, for errors.
        remedy: what the user can do if it is damaged.

    Raises:
        InputError: the file is missing, too large, not JSON, or has other content.
    """
    content = read_limited(path, LARGEST_TEXT, what)
    with reading(what, path, remedy):
        values: T = TypeAdapter(kind).validate_json(content, strict=True)
    return values


class LimitedReads(io.BufferedReader):
    """A file of which only so many bytes can be read at once.

    For libraries that believe the sizes in a file's headers, and try to read as many bytes.

    Args:
        path: the file.
        most: the most bytes of one read; seeking is not limited.

    Raises:
        InputError: a read is larger.
    """

    def __init__(self, path: Path | str, most: int) -> None:
        super().__init__(io.FileIO(path))
        self.path, self.most = path, most

    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, or all that is left."""
        if size is None or size == -1:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        if not 0 <= size <= self.most:
            raise InputError(f"{self.path} claims a part of {size} bytes; at most {self.most} are accepted")
        return super().read(size)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file of plain values, without aliases, by which a small file could stand for a huge one.

    Args:
        path: the file.
        what: what the file is expected to be, with its article, for errors.

    Raises:
        InputError: the file is missing, too large or not YAML; or it has an alias, a duplicate key or a key that
            is not text.
    """
    content = read_limited(path, LARGEST_YAML, what)
    with reading(what, path):
        return yaml.load(content.decode(), _PlainLoader)  # a SafeLoader


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML without aliases, duplicate keys and keys that are not text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise ValueError(f"line {event.start_mark.line + 1} repeats another part with an alias: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"in line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise ValueError(f"a key {where} is not text")
            if key.value in seen:
                raise ValueError(f"the key {key.value!r} {where} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
