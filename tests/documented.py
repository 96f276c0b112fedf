"""Names that documents mention, looked up in the sources.

Inline code is checked for commands and their options, paths of the repository, dotted names of the package, and
whatever looks like an identifier. Python blocks are parsed: their imports must resolve, and keyword arguments that
they pass to functions of the package must exist.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import purrception
from purrception.cli import main
from purrception.cli.verbs import GROUPS, VERBS
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.models import PurrceptionTransformer

ROOT = Path(__file__).parents[1]
PACKAGE = Path(purrception.__file__).parent
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
MODULES: dict[str, list[str]] = {}
"""Modules of the package by the last part of their names."""
for path in PACKAGE.glob("*/**/*.py"):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    MODULES.setdefault(module.split(".")[-1], []).append(module)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].keys()
FILE = r"\.(py|md|yaml|yml|json|jsonl|txt|npz|png|jpg|cls|csv|tar|pth|pt|safetensors|ckpt|ipynb|toml|lock)$"

INHERITING = (PurrceptionPipeline, PurrceptionTransformer)
"""Classes that have much from diffusers, which documents may name."""

EXCEPTIONS = {
    *("Host", "__MACOSX", "proxy", "save_to_disk"),  # names that belong to others
    "THOROUGH",  # an environment variable of the tests
    "de66f96",  # a commit of the paper's code
    "e_k",  # mathematics
    "teacher.head.soft_targets",  # the reader's own network
}


@cache
def options(command: str) -> frozenset[str]:
    """Options of a command, with underscores, as its ``--help`` lists them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    found = {name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", printed.getvalue())}
    if command == "diagnose":
        found |= options("diagnose --suite")
    return frozenset(found)


@cache
def all_options() -> frozenset[str]:
    return frozenset().union(*map(options, VERBS))


def wrong_in_command(command: str) -> Iterator[str]:
    """Verbs and options of ``purrception COMMAND`` that do not exist."""
    words = shlex.split(command, comments=True)
    verb = " ".join(words[: 2 if words[0] in GROUPS else 1])
    if verb not in VERBS:
        if verb.islower():  # VERB stands for any
            yield verb
        return
    for word in words:
        if word.startswith("--") and option(word) not in options(verb) | {"help"}:
            yield word


def option(word: str) -> str:
    return word[2:].split("=")[0].replace("-", "_")


def taken_by_some(word: str) -> bool:
    """Whether a word is not an option, or is an option of some command; … stands for the rest of a name."""
    start, dots, _ = option(word).partition("…")
    if not word.startswith("--") or not start:
        return True
    return any(name.startswith(start) for name in all_options()) if dots else start in all_options()


@cache
def sources() -> list[ast.AST]:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    return [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


@cache
def identifiers() -> frozenset[str]:
    """Every name in the sources, and every word of their strings but for docstrings."""
    found: set[str] = set()
    documentation = {id(node.value) for node in sources() if isinstance(node, ast.Expr)}
    for node in sources():
        found |= {str(getattr(node, field, "")) for field in ("id", "attr", "arg", "name")}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found |= {node.value, *re.findall(r"[\w.-]+", node.value), *re.findall(r"\w+", node.value)}
    return frozenset(found)


@cache
def owners() -> frozenset[str]:
    """Classes, parameters and what is imported: what may stand before a dot."""
    return frozenset(
        node.arg if isinstance(node, ast.arg) else node.name
        for node in sources()
        if isinstance(node, ast.arg | ast.alias | ast.ClassDef)
    )


def follow(name: str) -> Any:
    """What a dotted name of the package leads to.

    Raises:
        LookupError: it leads nowhere.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                raise LookupError(name)
            found = getattr(found, part, None)
        return found
    raise LookupError(name)


def leads_somewhere(name: str) -> bool:
    try:
        follow(name)
    except LookupError:
        return False
    return True


def known(name: str) -> bool:
    """Whether a name, dotted or not, is one of the sources, or of torch."""
    if len(name) == 1 or name in EXCEPTIONS | EXTRAS | MODULES.keys() | all_options() | identifiers():
        return True
    if re.search(FILE, name):
        return bool(re.search(r"[A-Z\d]", name)) or any(ROOT.glob(name)) or any(PACKAGE.rglob(name))
    first, *rest = name.strip(".").split(".")
    if not rest and any(hasattr(owner, first) for owner in INHERITING):
        return True
    if first in ("purrception", "torch"):
        return leads_somewhere(name)
    if rest and first in ROOMS:
        return leads_somewhere(f"purrception.{name}")
    if any(leads_somewhere(".".join([module, *rest])) for module in MODULES.get(first, ()) if rest):
        return True
    return {first, *rest} <= identifiers() and (not rest or first in owners())


def wrong_in_span(span: str) -> Iterator[str]:
    """Names in a piece of inline code that do not exist."""
    if command := re.search(r"(?:^|/| )purrception ([a-z].*)", span):
        yield from wrong_in_command(command[1])
    elif span.split(" ")[0] in VERBS and "--" in span:
        yield from wrong_in_command(span)
    elif span.startswith("--"):
        yield from (word for word in span.split() if not taken_by_some(word))
    elif re.fullmatch(r"\.?[A-Za-z_][\w.]*(\(.*\))?(=\S*)?", span):
        code = re.sub(r"\"[^\"]*\"", "", span)
        yield from (name for name in re.findall(r"[A-Za-z_]\w*(?:\.\w+)*", code) if not known(name))
    yield from wrong_paths(span)


def wrong_paths(text: str) -> Iterator[str]:
    """Paths of the repository, or below the package, at which there is nothing."""
    for path in re.findall(r"(?<![\w./:-])[\w.-]+/[\w./*-]*", text):
        ours = path.startswith(("src/", "tests/", "benchmarks/", "docs/", ".ci/")) or path.endswith(".py")
        if ours and not any(any(folder.glob(path.rstrip("/"))) for folder in (ROOT, PACKAGE)):
            yield path


def wrong_in_python(block: str) -> Iterator[str]:
    """Imports that do not resolve, and arguments passed by name to what does not take them."""
    tree = ast.parse(block)
    names: dict[str, Any] = {"pipe": PurrceptionPipeline.__call__}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "purrception":
            for alias in node.names:
                try:
                    names[alias.name] = follow(f"{node.module}.{alias.name}")
                except LookupError as wrong:
                    yield str(wrong)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name):
                    called = names.get(name)
                case ast.Attribute(value=ast.Name(id="pipe" | "PurrceptionPipeline"), attr=name):
                    called = getattr(PurrceptionPipeline, name)
                case _:
                    called = None
            if getattr(called, "__module__", "").startswith("purrception"):  # not what diffusers brings
                taken = inspect.signature(called).parameters
                yield from (f"{name}({word.arg}=)" for word in node.keywords if word.arg not in taken)


def wrong_names(page: str) -> Iterator[str]:
    """Names in a Markdown page that do not exist."""
    blocks = re.findall(r"```([^\n]*)\n(.*?)```", page, flags=re.DOTALL)
    for language, block in blocks:
        if language == "python":
            yield from wrong_in_python(block)
        else:
            yield from wrong_paths(block)
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        yield from wrong_in_span(" ".join(span.split()))
    for name in re.findall(r"\bpurrception(?:\.\w+)+", page):
        if not known(name):
            yield name
