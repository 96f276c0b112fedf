"""The order of the modules: each imports only what stands left of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import purrception

SOURCE = Path(purrception.__file__).parent
ORDER = [
    "utils",
    "storage",
    "data",
    "flow",
    "models",
    "tokenizers",
    "tokens",
    "generation",
    "training",
    "evaluation",
    "instruments",
    "bench",
    "experiment",
    "comparison",
    "diagnose",
    "studio",
    "cli",
    "__main__",
]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    """The first part of a module's name below the package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("purrception.")}
    return found


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_left(path: Path) -> None:
    here = ORDER.index(room(path))
    wrong = {name for name in imports(path) - {room(path)} if ORDER.index(name) >= here}
    assert not wrong, f"{path.name} imports {wrong}, which stand right of it"


def test_flow_is_pure() -> None:
    for path in (SOURCE / "flow").rglob("*.py"):
        assert imports(path) <= {"flow", "utils"}


def test_importing_the_package_and_asking_for_help_load_nothing_heavy() -> None:
    probe = (
        "import sys; from purrception.cli import main; main(['--help']);"
        "heavy = {'torch', 'diffusers', 'numpy', 'tyro', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def names_no_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the machine happens to have."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    values = [arg.value if isinstance(arg, ast.Constant) else None for arg in call.args]
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
        case ast.Attribute(attr="open"):
            return bool(values) and values[0] in ("r", "w", "a", "x", "r+", "w+", "a+")
        case ast.Name(id="open"):
            return "b" not in str((values[1:] or ["r"])[0])
    return False


def test_texts_name_their_encoding() -> None:
    assert names_no_encoding(ast.parse("open(path)").body[0].value)  # type: ignore[attr-defined]
    for path in [*FILES, *(Path(__file__).parents[1] / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and names_no_encoding(node)), f"{path}:{node.lineno}"


WRITERS = {"storage", "training/checkpoint.py"}
"""Who writes by other means than those of storage: many processes write a checkpoint together."""


def writes_plainly(call: ast.Call) -> bool:
    """Whether a call writes a file under its own name, or gives one its name, so that a kill leaves half of it."""
    match call.func:
        case ast.Attribute(attr="write_text" | "write_bytes"):
            return True
        case ast.Attribute(value=ast.Name(id="os"), attr="replace" | "rename"):
            return True
        case ast.Attribute(attr="open"):
            return any(
                isinstance(arg, ast.Constant) and arg.value in ("w", "a", "wb", "ab") for arg in call.args[:1]
            )
    return False


def test_files_are_written_by_storage_alone() -> None:
    assert writes_plainly(ast.parse("path.write_text(text)").body[0].value)  # type: ignore[attr-defined]
    for path in FILES:
        if not {room(path), path.relative_to(SOURCE).as_posix()} & WRITERS:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                assert not (isinstance(node, ast.Call) and writes_plainly(node)), f"{path}:{node.lineno}"


def test_every_public_name_exists() -> None:
    for name in purrception.__all__:
        assert getattr(purrception, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = purrception.nothing
