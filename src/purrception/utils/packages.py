"""What others made: which versions are here, and what to install where something is missing."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from purrception import __version__
from purrception.utils.errors import InputError

EXTRAS = {"gradio": "studio", "datasets": "hub", "transformers": "dinov2"}
"""The extra of this package that installs a module's package; others come with the package itself."""
PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""A module's package, where the names differ by more than a dash."""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module that may be missing, or of a version that does not work here.

    Args:
        module: its name, with dots.
        purpose: what cannot be done without it, as the subject of a sentence: ``"the studio"``.

    Raises:
        InputError: what is missing, and the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise explained(error, purpose, module) from error


def explained(error: ImportError, purpose: str, module: str = "") -> InputError:
    """A failed import in one line: what is missing, what for, and the command that installs it.

    Args:
        error: of the import; or of a library that names the missing module as its cause.
        purpose: what cannot be done without it, as the subject of a sentence.
        module: what was asked for, which may be here while something that it needs is not.
    """
    missing = _root(error.name or getattr(error.__cause__, "name", None) or module)
    package = PACKAGES.get(missing, missing.replace("_", "-"))
    extra = EXTRAS.get(missing) or EXTRAS.get(_root(module))
    wanted = f"'purrception[{extra}]'" if extra else package
    if find_spec(missing) is None:
        return InputError(f"{purpose} needs {package}, which is not installed: pip install {wanted}")
    return InputError(
        f"{purpose} needs another {package} than the one installed, {_version(package) or 'of unknown version'} "
        f"({error}): pip install --upgrade {wanted}"
    )


def is_foreign(error: ImportError) -> bool:
    """Whether an import failed for want of what others made, and not by a mistake of ours."""
    return bool(error.name) and _root(str(error.name)) != "purrception"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of this package and of those ``packages`` that are installed."""
    found = {package: _version(package) for package in packages}
    known = {package: number for package, number in found.items() if number}
    return {"python": platform.python_version(), "purrception": __version__, **known}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _root(module: str) -> str:
    return module.partition(".")[0]
