"""Reading what others wrote: within limits, against a schema, with one line where it fails."""

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
"""Bytes of a JSON file beyond which it is not ours."""
LARGEST_YAML = 2**18
"""Bytes of a YAML file; ours have a few thousand."""


@contextlib.contextmanager
def reading(what: str, path: object, remedy: str = "") -> Iterator[None]:
    """Around the reading of a file: whatever is raised becomes one line that names it.

    A damaged or hostile file can raise anything in the libraries that parse it; so every kind of error is caught.

    Args:
        what: the file is expected to be, with its article: ``"a token manifest"``.
        path: of the file, or an address.
        remedy: what to do.

    Raises:
        InputError: it cannot be read; one that is raised inside passes as it is.
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
    """What an error says, in one line of moderate length."""
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
    said = in_words(error)[:200]
    return f"no {said}" if isinstance(error, KeyError) else said or type(error).__name__


def read_limited(path: Path, limit: int, what: str) -> bytes:
    """A file's content, if it is no larger than ``limit`` bytes.

    Raises:
        InputError: it is missing, larger, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path} has {size} bytes; {what} has at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path, kind: type[T] | Any, what: str, remedy: str = "", *, strict: bool = True) -> T:
    """A JSON file as ``kind``, a dataclass or another type that pydantic checks.

    Args:
        path: the file.
        kind: what it holds.
        what: it is expected to be, with its article, for errors.
        remedy: what to do where it is damaged.
        strict: whether a number must be a number, and no text that reads as one.

    Raises:
        InputError: it is missing, too large, no JSON, or holds something else.
    """
    content = read_limited(path, LARGEST_TEXT, what)
    with reading(what, path, remedy):
        values: T = TypeAdapter(kind).validate_json(content, strict=strict)
    return values


class LimitedReads(io.BufferedReader):
    """A file that nobody reads much of at once.

    For libraries that believe the sizes in a file's headers, and ask for so many bytes.

    Args:
        path: of the file.
        most: bytes of one read; seeking is free.

    Raises:
        InputError: upon a read that is larger.
    """

    def __init__(self, path: Path | str, most: int) -> None:
        super().__init__(io.FileIO(path))
        self.path, self.most = path, most

    def read(self, size: int | None = -1, /) -> bytes:
        """The next ``size`` bytes, or what is left."""
        whole = size is None or size == -1
        asked = max(os.fstat(self.fileno()).st_size - self.tell(), 0) if size is None or whole else size
        if not 0 <= asked <= self.most:
            raise InputError(f"{self.path} says that a part of it has {asked} bytes; it has at most {self.most}")
        return super().read(asked)


def read_yaml(path: Path, what: str) -> Any:
    """A YAML file's plain values, without what lets a small file stand for a large one.

    Args:
        path: the file.
        what: it is expected to be, with its article, for errors.

    Raises:
        InputError: it is missing, too large or no YAML, or has an alias, a key twice or one that is no text.
    """
    content = read_limited(path, LARGEST_YAML, what)
    with reading(what, path):
        return yaml.load(content.decode(), _PlainLoader)  # a SafeLoader


class _PlainLoader(yaml.SafeLoader):
    """YAML in which everything stands where it is used, once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise ValueError(f"line {event.start_mark.line + 1} repeats another part by an alias: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"in line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise ValueError(f"a key {where} is no text")
            if key.value in seen:
                raise ValueError(f"the key {key.value!r} {where} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
