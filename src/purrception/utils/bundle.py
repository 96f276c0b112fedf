"""One file of Python made from several modules of this package: what one definition needs, and nothing else.

The text is the source's own, with its comments, in the order in which the modules import each other. What is left
out is found by name: a definition that nothing kept refers to, and a member of a class whose name nothing kept
mentions, unless it overrides a member of a class of another package.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
LINE_LENGTH = 115
PRAGMA = re.compile(r"  # (?:type: ignore|noqa).*$", re.MULTILINE)
"""Comments for the tools that check the source, which mean nothing in the file."""
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
"""A statement that defines names."""


@dataclass(frozen=True)
class Bundle:
    """What one file is made of."""

    text: str
    """The file."""
    mentions: frozenset[str]
    """The attributes that its code asks of anything."""


@dataclass(frozen=True)
class External:
    """A name that another package defines, or a module of it."""

    module: str
    name: str = ""
    """The name in the module; empty where the module itself is imported."""
    alias: str = ""
    """What it is called here, where that differs."""


@dataclass(eq=False)
class Module:
    """A module of this package, parsed."""

    name: str
    lines: list[str]
    tree: ast.Module
    definitions: dict[str, Definition] = field(default_factory=dict)
    """The statements that define names, by name."""
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Names imported from this package: the module and the name there."""
    externals: dict[str, External] = field(default_factory=dict)
    """Names imported from other packages."""

    @staticmethod
    @cache
    def load(name: str) -> Module:
        """The module of that name."""
        text = _source(name).read_text(encoding="utf-8")
        module = Module(name, text.splitlines(), ast.parse(text))
        for_types = [node for block in module.tree.body if isinstance(block, ast.If) for node in block.body]
        for statement in [*module.tree.body, *for_types]:
            module.definitions |= dict.fromkeys(_names_defined(statement), statement)  # type: ignore[arg-type]
            module._add_externals(statement)
        for node in ast.walk(module.tree):  # some are imported where they are used
            if isinstance(node, ast.ImportFrom) and _is_own_import(node):
                module.imports |= {each.asname or each.name: (str(node.module), each.name) for each in node.names}
        return module

    def _add_externals(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import):
            for each in node.names:
                self.externals[each.asname or each.name.partition(".")[0]] = External(
                    each.name, alias=each.asname or ""
                )
        elif isinstance(node, ast.ImportFrom) and not _is_own_import(node) and node.module != "__future__":
            for each in node.names:
                alias = "" if each.asname == each.name else each.asname or ""
                self.externals[each.asname or each.name] = External(str(node.module), each.name, alias)

    def resolve(self, name: str) -> tuple[Module, str] | External | None:
        """Where a name of this module is defined; ``None`` for a local or builtin one."""
        if name in self.definitions:
            return self, name
        if name in self.imports:
            module, original = self.imports[name]
            return Module.load(module).resolve(original)
        return self.externals.get(name)


def bundle(
    entry: str,
    name: str,
    header: str,
    *,
    mentions: Collection[str] | None = None,
    left_out: Collection[str] = (),
    stand_ins: dict[str, External] | None = None,
) -> Bundle:
    """Everything that a definition needs, as one file.

    Args:
        entry: the module that it is in.
        name: its name.
        header: the docstring of the file.
        mentions: attributes that other code asks of it, which are kept; by default all members of a class.
        left_out: modules that are not part of the file: an ``if`` that asks one of them is left out too, as if the
            answer were no. Also members of classes, as ``Class.member``.
        stand_ins: names that are not defined in the file, and what annotations say in their place.

    Raises:
        ValueError: one name has two meanings, or something is needed that is left out.
    """
    whole = name if mentions is None else ""
    work = _Collector(frozenset(left_out), stand_ins or {}, set(mentions or ()), whole)
    start = Module.load(entry)
    while True:
        before = (len(work.kept), len(work.mentions))
        work.keep(start, name)
        for module, needed in list(work.kept):
            work.follow(module, needed)
        if before == (len(work.kept), len(work.mentions)):
            break
    return Bundle(work.text(header), frozenset(work.mentions))


@dataclass
class _Collector:
    """What is kept; it grows until nothing that is kept needs more."""

    left_out: frozenset[str]
    stand_ins: dict[str, External]
    mentions: set[str]
    whole: str
    """A class all of whose members are kept."""
    kept: dict[tuple[Module, str], None] = field(default_factory=dict)
    externals: set[External] = field(default_factory=set)
    used_stand_ins: set[str] = field(default_factory=set)

    def keep(self, module: Module, name: str) -> None:
        """Keep what a name means in a module."""
        if name in self.stand_ins:
            self.used_stand_ins.add(name)
            self.externals.add(self.stand_ins[name])
            return
        found = module.resolve(name)
        if isinstance(found, External):
            self.externals.add(found)
        elif found is None and name in module.imports:
            raise ValueError(f"{module.name} imports the module {name}: import the names that it needs")
        elif found is not None:
            if found[0].name in self.left_out:
                raise ValueError(f"{module.name} needs {name}, which is left out")
            self.kept[found] = None

    def follow(self, module: Module, name: str) -> None:
        """Keep what a definition refers to, and note what it mentions."""
        for part in self._parts(module, module.definitions[name]):
            dropped = {id(inner) for node in self._dropped(module, part) for inner in ast.walk(node)}
            local = _locals(part)
            for node in ast.walk(part):
                if id(node) in dropped:
                    continue
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    self.mentions.add(node.attr)
                elif isinstance(node, ast.Name) and node.id not in local:
                    self.keep(module, node.id)

    def _parts(self, module: Module, node: Definition) -> Iterator[ast.AST]:
        """A definition, or of a class what is kept of it."""
        if not isinstance(node, ast.ClassDef):
            yield node
            return
        yield from (*node.bases, *node.decorator_list)
        yield from (member for member in node.body if self._keeps(module, node, member))

    def _keeps(self, module: Module, node: ast.ClassDef, member: ast.stmt) -> bool:
        """Whether a statement in the body of a class is part of the file."""
        names = _names_defined(member)
        if not names:
            return True
        if any(f"{node.name}.{name}" in self.left_out for name in names):
            return False
        if node.name == self.whole:
            return True
        if isinstance(member, ast.AnnAssign) and _has_fields(node) and "ClassVar" not in ast.unparse(member):
            return True
        overrides = _foreign_members(module.name, node.name)
        return any(_is_dunder(name) or name in self.mentions or name in overrides for name in names)

    def _dropped(self, module: Module, part: ast.AST) -> list[ast.stmt]:
        """Statements of a kept definition that are not part of the file."""
        statements = [node for node in ast.walk(part) if isinstance(node, ast.stmt)]
        return [node for node in statements if _is_own_import(node) or self._asks_left_out(module, node)]

    def _asks_left_out(self, module: Module, node: ast.stmt) -> bool:
        """Whether a statement is an ``if`` whose condition calls what is left out."""
        if not isinstance(node, ast.If):
            return False
        used = {inner.id for inner in ast.walk(node.test) if isinstance(inner, ast.Name)}
        return any(module.imports.get(name, ("",))[0] in self.left_out for name in used)

    def text(self, header: str) -> str:
        """The file."""
        texts: dict[str, str] = {}
        sections = []
        for module in self._in_order():
            ours = [name for name in module.definitions if (module, name) in self.kept]
            body = []
            for node in dict.fromkeys(module.definitions[name] for name in ours):
                text = self._text(module, node)
                known = {texts.get(name) for name in _names_defined(node)} - {None}
                if known - {text}:
                    raise ValueError(f"{module.name} gives another meaning to {_names_defined(node)}: rename it")
                if not known:
                    body.append((node, text))
                    texts |= dict.fromkeys(_names_defined(node), text)
            if body:
                sections.append(_banner(module) + _distance(None, body[0][0]) + _joined(body))
        stand_ins = [f"{name} = {self.stand_ins[name].name}" for name in sorted(self.used_stand_ins)]
        opening = [
            f'"""{header.strip()}\n"""',
            "from __future__ import annotations",
            _import_lines(self.externals),
        ]
        if stand_ins:
            opening.append("# Parts of a pipeline whose code lies in their own folders.\n" + "\n".join(stand_ins))
        return "\n\n".join(opening) + "\n\n" + "\n\n\n".join(sections) + "\n"

    def _in_order(self) -> list[Module]:
        """The modules of what is kept, each after those that it imports from."""
        order: dict[Module, None] = {}
        entered: set[Module] = set()
        ours = {module for module, _ in self.kept}

        def visit(module: Module) -> None:
            if module in entered:
                return
            entered.add(module)
            for name in module.imports:
                found = module.resolve(name)
                if isinstance(found, tuple) and found in self.kept:
                    visit(found[0])
            order[module] = None

        for module in sorted(ours, key=lambda each: each.name):
            visit(module)
        return [module for module in order if module in ours]

    def _text(self, module: Module, node: Definition) -> str:
        """The source of a definition without what is dropped of it."""
        first, last = _span(module, node)
        dropped: set[int] = set()
        inner = [node]
        if isinstance(node, ast.ClassDef):
            inner = [member for member in node.body if self._keeps(module, node, member)]  # type: ignore[misc]
            for member in node.body:
                if member not in inner:
                    dropped |= set(range(_span(module, member)[0], _span(module, member)[1] + 1))
        for part in inner:
            for statement in self._dropped(module, part):
                begin, end = statement.lineno, statement.end_lineno or statement.lineno
                if _opens(module.lines[begin - 2]) and not module.lines[end].strip():
                    end += 1  # the line that sets it off from what follows
                dropped |= set(range(begin, end + 1))
        lines = [module.lines[number - 1] for number in range(first, last + 1) if number not in dropped]
        text = PRAGMA.sub("", "\n".join(lines))
        return re.sub(r"\n{3,}", "\n\n", text).rstrip()


def _source(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _is_own_import(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}.")


def _names_defined(node: ast.stmt) -> list[str]:
    """The names that a statement gives a meaning to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        targets = [part for target in node.targets for part in getattr(target, "elts", [target])]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _locals(node: ast.AST) -> set[str]:
    """The names that a function gives a meaning to within itself."""
    found = {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
    if isinstance(node, ast.FunctionDef):
        found |= {
            inner.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
        }
        found |= {
            inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef) and inner is not node
        }
    return found


def _has_fields(node: ast.ClassDef) -> bool:
    """Whether the annotated names of a class are its fields."""
    decorators = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
    return "dataclass" in decorators or any(
        ast.unparse(base) in ("NamedTuple", "TypedDict") for base in node.bases
    )


@cache
def _foreign_members(module: str, name: str) -> frozenset[str]:
    """The members of a class that those of its bases have which are not of this package."""
    kind = getattr(importlib.import_module(module), name)
    return frozenset(
        member for base in kind.__mro__ if base.__module__.partition(".")[0] != PACKAGE for member in vars(base)
    )


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _span(module: Module, node: ast.stmt) -> tuple[int, int]:
    """The first and the last line of a definition, with the comments above and the docstring below it."""
    decorators = getattr(node, "decorator_list", [])
    first = min(each.lineno for each in (node, *decorators))
    while first > 1 and module.lines[first - 2].lstrip().startswith("#"):
        first -= 1
    last = node.end_lineno or node.lineno
    return first, _docs(module).get(last, last)


@cache
def _docs(module: Module) -> dict[int, int]:
    """For the last line of each assignment with a docstring below, the last line of that docstring."""
    found: dict[int, int] = {}
    for block in ast.walk(module.tree):
        body = getattr(block, "body", [])
        for node, doc in pairwise(body) if isinstance(body, list) else ():
            if isinstance(node, ast.Assign | ast.AnnAssign) and _is_doc(doc):
                found[node.end_lineno or 0] = doc.end_lineno or 0
    return found


def _is_doc(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def _opens(line: str) -> bool:
    """Whether a line ends what stands before the first statement of a block."""
    return line.endswith((":", '"""'))


def _banner(module: Module) -> str:
    """A comment with the name of a module and what it says of itself."""
    path = module.name.removeprefix(f"{PACKAGE}.").replace(".", "/") + ".py"
    lines = [f"---- {path} ".ljust(LINE_LENGTH - 2, "-")]
    for paragraph in (ast.get_docstring(module.tree) or "").split("\n\n"):
        said = paragraph.splitlines()
        fits = max(map(len, said), default=0) <= LINE_LENGTH - 2
        lines += [*(said if fits else textwrap.wrap(paragraph, LINE_LENGTH - 2)), ""]
    return "\n".join(f"# {line}".rstrip() for line in lines[:-1])


def _joined(body: list[tuple[Definition, str]]) -> str:
    """Definitions one below the other, with the distances that formatters ask for."""
    text = body[0][1]
    for (before, _), (after, lines) in pairwise(body):
        text += _distance(before, after) + lines
    return text


def _distance(before: Definition | None, after: Definition) -> str:
    """The line breaks between two definitions, or a comment and a definition."""
    blocks = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in (before, after))
    return "\n" * (3 if blocks else 2 if before is None else 1)


def _import_lines(externals: Collection[External]) -> str:
    """Import statements, sorted: those of Python itself first."""

    def is_foreign(module: str) -> bool:
        return module.partition(".")[0] not in sys.stdlib_module_names

    blocks = []
    for foreign in (False, True):
        chosen = {each for each in externals if is_foreign(each.module) == foreign}
        plain = sorted({_plain(each) for each in chosen if not each.name}, key=str.lower)
        by_module: dict[str, list[str]] = {}
        for each in sorted((each for each in chosen if each.name), key=lambda each: _import_key(each.name)):
            by_module.setdefault(each.module, []).append(each.name + (f" as {each.alias}" if each.alias else ""))
        blocks.append(
            "\n".join([*plain, *(_from(module, by_module[module]) for module in sorted(by_module, key=str.lower))])
        )
    return "\n\n".join(filter(None, blocks))


def _import_key(name: str) -> tuple[int, str]:
    """The order in which names are imported: constants, classes, others."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _plain(each: External) -> str:
    return f"import {each.module}" + (f" as {each.alias}" if each.alias else "")


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
