"""Settings as YAML: writing dataclasses, and reading them strictly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter

from purrception.storage.readers import read_yaml, reading
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.folders import check_name
from purrception.utils.settings import option_names

T = TypeVar("T")


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain lists, numbers and strings, ready for YAML or JSON."""
    return TypeAdapter(type(settings)).dump_python(settings, mode="json")


def settings_from_dict(kind: type[T], values: Any, origin: str) -> T:
    """Settings from plain values, validated strictly.

    Args:
        kind: the dataclass. Its ``RENAMED``, if it has one, maps names of fields in older files to today's.
        values: the content of a YAML file.
        origin: where the values come from, for errors.

    Raises:
        InputError: a key is unknown (the message suggests the closest one) or missing, or a value has another
            type.
    """
    if not isinstance(values, dict):
        examples = " and ".join(repr(name) for name in list(get_type_hints(kind))[:2])
        raise InputError(f"{origin} is not a configuration: expected keys such as {examples}")
    values = _current(values, kind, "", origin)
    with reading("a configuration", origin):
        # Strict mode of JSON: accepts lists for tuples, but no string for a number and no true for 1.
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)


def load_settings(kind: type[T], path: Path | str) -> T:
    """Read settings from a YAML file, strictly; see :func:`settings_from_dict`.

    Raises:
        InputError: the file is missing, is not YAML or does not validate.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no configuration file at {path}")
    return settings_from_dict(kind, read_yaml(path, "a configuration in YAML"), str(path))


def dump_settings(settings: Any) -> str:
    """Settings as YAML; :func:`load_settings` gives equal ones back.

    Raises:
        InputError: a path or name is not valid text; see :func:`purrception.utils.folders.check_name`.
    """
    for text in _texts(dataclasses.asdict(settings)):
        check_name(text)
    return yaml.safe_dump(settings_to_dict(settings), sort_keys=False, allow_unicode=True)


def _current(values: dict[str, Any], kind: type, prefix: str, origin: str) -> dict[str, Any]:
    """``values`` under today's names; unknown names are refused."""
    hints, known, current = get_type_hints(kind), {field.name for field in dataclasses.fields(kind)}, {}
    for key, value in values.items():
        name = getattr(kind, "RENAMED", {}).get(key, key)
        if name not in known:
            raise unknown_name(f"key in {origin}:", f"{prefix}{key}", option_names(kind, prefix))
        if name in current:
            raise InputError(f"{origin} gives {prefix}{name} twice: it is also called {key}")
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[name]):
            value = _current(value, hints[name], f"{prefix}{name}.", origin)
        current[name] = value
    return current


def _texts(value: Any) -> Iterator[str]:
    """All strings in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
