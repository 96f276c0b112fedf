"""Other packages: importing optional ones with advice on how to install them, and their versions."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from types import ModuleType

from packaging.requirements import Requirement

from purrception.utils.errors import InputError
from purrception.utils.version import __version__

PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""The package of a module, where the names differ by more than a dash."""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module that may be missing or too old.

    Args:
        module: the dotted name of the module.
        purpose: what needs the module, as the subject of a sentence: ``"the studio"``.

    Raises:
        InputError: it cannot be imported; the message gives the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise explained(error, purpose, module) from error


def explained(error: ImportError, purpose: str, module: str = "") -> InputError:
    """A failed import in one line: what is missing, what needs it, and the command that installs it.

    Args:
        error: the error of the import, or one of a library that has it as its cause.
        purpose: what needs the module, as the subject of a sentence.
        module: the module that was asked for, which may itself be installed without something that it needs.
    """
    missing = _root(error.name or getattr(error.__cause__, "name", None) or module)
    package = PACKAGES.get(missing, missing.replace("_", "-"))
    requirement = _requirement(package)
    if find_spec(missing) is None:
        return InputError(f"{purpose} needs {package}, which is not installed: pip install {requirement}")
    return InputError(
        f"{purpose} needs another {package} than the one installed, {_version(package) or 'of unknown version'} "
        f"({error}): pip install --upgrade {requirement}"
    )


def is_foreign(error: ImportError) -> bool:
    """Whether an import failed because of another package, and not of this one."""
    return bool(error.name) and _root(str(error.name)) != "purrception"


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, of this package and of those ``packages`` that are installed."""
    found = {package: _version(package) for package in packages}
    known = {package: number for package, number in found.items() if number}
    return {"python": platform.python_version(), "purrception": __version__, **known}


def _requirement(package: str) -> str:
    """What pip is to install: a package with the versions that this one takes, where they are known."""
    try:
        listed = map(Requirement, requires("purrception") or [])
    except PackageNotFoundError:  # a source tree that nobody installed
        return package
    wanted = next((f"'{package}{each.specifier}'" for each in listed if each.name == package), "")
    return wanted or package


def _version(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _root(module: str) -> str:
    """The first part of a dotted name."""
    return module.partition(".")[0]
