"""References made while the site is built: every public name from its docstring, every command from its help."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import purrception
import purrception.flow
from purrception.cli import main
from purrception.cli.verbs import VERBS

PUBLIC = {name: package.__name__ for package in (purrception.flow, purrception) for name in package.__all__}
"""Public names, and the package that each is documented in."""


@cache
def homes(package: Any) -> dict[str, list[str]]:
    """The public names of a package by the module that defines them, in the order in which it imports them."""
    source = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for node in ast.walk(source):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names if alias.name in package.__all__]
            found |= {node.module: names} if names else {}
    return found


def python_page(package: Any) -> str:
    """Every name in ``__all__``, under the name and the first lines of the module that defines it."""
    parts = []
    for module, names in homes(package).items():
        heading = module.split(".")[-1].replace("_", " ").capitalize()
        text = (inspect.getdoc(import_module(module)) or "").split("\n\n")[0]
        parts += [f"## {heading}\n", directive(text)]
        parts += [entry(package, module, name) for name in names]
    return "\n".join(parts)


def directive(*lines: str) -> str:
    """Lines of reStructuredText, the language of docstrings, in a page of Markdown."""
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def entry(package: Any, module: str, name: str) -> str:
    """The directive that documents one name; a value's text is the string below it."""
    value, path = getattr(package, name), f"{package.__name__}.{name}"
    if inspect.isclass(value):
        bases = ["   :show-inheritance:"] if value.__base__ is not object else []
        lines = [f".. autoclass:: {path}", "   :members:", *bases]
    elif callable(value):
        lines = [f".. autofunction:: {path}"]
    else:
        text = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), [])
        listed = f"``{value!r}``" if isinstance(value, str) else ", ".join(f"``{one}``" for one in value)
        lines = [f".. py:data:: {path}", "", *(f"   {line}" for line in [*text, "", f"{listed}."])]
    return directive(*lines)


def settings_page() -> str:
    """The dataclasses of settings that a :class:`RunConfig` holds, each once."""
    kinds = dict.fromkeys(settings_in(purrception.RunConfig))
    entries = [
        directive(f".. autoclass:: {kind.__module__}.{kind.__qualname__}", "   :members:") for kind in kinds
    ]
    return "\n".join(["## Settings of a run\n", "What the fields of a `RunConfig` hold.\n", *entries])


def settings_in(kind: type) -> Iterator[type]:
    """Dataclasses of the package that the fields of one hold, also behind ``| None``, with those in them."""
    for hint in get_type_hints(kind).values():
        for part in (hint, *getattr(hint, "__args__", ())):
            if dataclasses.is_dataclass(part):
                if part.__name__ not in PUBLIC:
                    yield part
                yield from settings_in(part)


def commands_page() -> str:
    """What each command does, an example, and the options that its ``--help`` lists."""
    os.environ["COLUMNS"] = "88"
    parts = []
    for verb in VERBS.values():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*verb.name.split(), "--help"])
        options = printed.getvalue().split(verb.example)[-1].strip("\n")
        parts += [
            f"## {verb.name}\n\n{verb.summary}\n",
            f"```text\npurrception {verb.name} {verb.usage}\n```\n",
            f"For example:\n\n```bash\n{verb.example}\n```\n",
            f"```text\n{options}\n```\n",
        ]
    return "\n".join(parts)


def add_reference(app: Sphinx, page: str, source: list[str]) -> None:
    """Append what is made to the text that stands on the page."""
    match page:
        case "reference/python":
            source[0] += "\n" + python_page(purrception) + settings_page()
        case "reference/flow":
            source[0] += "\n" + python_page(purrception.flow)
        case "reference/commands":
            source[0] += "\n" + commands_page()


@cache
def known_names() -> frozenset[str]:
    """Whatever the package defines, public or not."""
    found = set()
    for file in Path(purrception.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found |= {getattr(node, "name", None), getattr(node, "id", None)}
    return frozenset(found - {None})


def find(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Node | None:
    """Where a name that a docstring or an annotation mentions is documented; plain text for one that is not.

    Public names have one page, whichever module names them. Inner names, and those of other libraries, have none.
    Anything else is left to the build, which refuses it.
    """
    target = node["reftarget"]
    first, last = target.split(".")[0], target.split(".")[-1]
    if last in PUBLIC:
        domain, name = env.domains.python_domain, f"{PUBLIC[last]}.{last}"
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, text)
    foreign = "." in target and first in sys.modules and first != "purrception"
    return text if foreign or last in known_names() else None


def keep_colons(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Let the text of a field be text: before a colon in its first line, a type would be looked for."""
    if what in ("attribute", "property", "data"):
        lines.insert(0, r"\ ")  # which prints nothing


def readable_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write a default that a dataclass makes anew as ``...``: ``<factory>`` is no Python."""
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the references, and lead names of inner modules to them."""
    app.connect("source-read", add_reference)
    app.connect("missing-reference", find)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # napoleon's is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
