"""Names of the options that a dataclass gives a command."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import Any, get_type_hints

LARGEST_RATE = 1e6
"""Learning rate beyond which a few steps of AdamW make of any weight what float32 cannot hold."""
TIMEOUT_MINUTES = 30.0
"""How long processes wait for one that shows no progress, unless somebody says otherwise."""


def option_names(kind: type, prefix: str = "", of: type | None = None) -> list[str]:
    """Every field of a dataclass and of those within it in dotted form, such as ``training.batch_size``.

    Args:
        kind: the dataclass.
        prefix: put before each name.
        of: only fields of this type.
    """
    hints = get_type_hints(kind)
    names: list[str] = []
    for item in dataclasses.fields(kind):
        inner = hints[item.name]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            names += option_names(inner, f"{prefix}{item.name}.", of)
        elif of in (None, inner):
            names.append(prefix + item.name)
    return names


def as_options(settings: Any) -> dict[str, Any]:
    """The values of a dataclass by their names on the command line; see ``OPTIONS`` of the dataclass."""
    names = getattr(settings, "OPTIONS", {})
    return {names.get(item.name, item.name): getattr(settings, item.name) for item in dataclasses.fields(settings)}


def field_docs(kind: type) -> dict[str, str]:
    """What the docstring below each field of a dataclass says, by field, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, doc in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
            docs[ast.unparse(field.target)] = " ".join(str(doc.value.value).split())
    return docs
