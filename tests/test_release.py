"""What is installed and released: metadata, and versions that go together."""

from __future__ import annotations

import datetime
import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

import purrception

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as GitHub's runner would build it for a release."""
    folder = tmp_path_factory.mktemp("dist")
    known = os.environ | {"GITHUB_REPOSITORY": "someone/purrception", "GITHUB_REF_NAME": "v9.9"}
    command = [sys.executable, "-c", BUILD, folder]
    done = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / done.stdout.split()[-1])


def test_a_wheel_says_where_it_comes_from_and_that_it_is_typed(built: zipfile.ZipFile) -> None:
    names = built.namelist()
    assert {"purrception/py.typed", "purrception/studio/style.css", "purrception/data/emoji.csv"} <= {*names}
    assert all(name.split("/")[0].startswith("purrception") for name in names)
    told = email.message_from_bytes(built.read(next(name for name in names if name.endswith("METADATA"))))
    urls = dict(url.split(", ") for url in told.get_all("Project-URL", []))
    assert urls["Repository"] == "https://github.com/someone/purrception"
    assert urls["Paper"] == "https://arxiv.org/abs/2510.01478"
    assert told["Version"] == purrception.__version__


def test_pictures_and_links_of_its_readme_lead_to_the_release(built: zipfile.ZipFile) -> None:
    readme = built.read(next(name for name in built.namelist() if name.endswith("METADATA"))).decode()
    places = re.findall(r'src="([^"]+)"', readme) + re.findall(r"\]\(([^)#]+)", readme)
    assert all(place.startswith("https://") for place in places)
    ours = [place.split("/v9.9/")[1] for place in places if "/v9.9/" in place]
    assert "docs/images/digits.png" in ours
    assert not [place for place in ours if not (ROOT / place).exists()]


def pinned() -> dict[str, list[Requirement]]:
    """The lines of constraints.txt, by package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        if not line.startswith("#"):
            found.setdefault(Requirement(line).name, []).append(Requirement(line))
    return found


def test_the_constraints_hold_a_version_of_every_package_that_fits() -> None:
    extras = PROJECT["optional-dependencies"].values()
    wanted = [
        Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    ]
    held = pinned()
    for requirement in wanted:
        if requirement.name == "purrception":
            continue
        for pin in held[requirement.name.lower()]:
            (version,) = (each.version for each in pin.specifier)
            assert requirement.specifier.contains(version), f"{pin} is not {requirement}"
    (torch,) = held["torch"]
    assert f"pip install -q -c constraints.txt {torch} " in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_constraints_name_one_version_for_each_machine(python: str, system: str) -> None:
    machine = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
        "platform_machine": "x86_64",
    }
    for name, pins in pinned().items():
        fitting = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(dict(machine))]
        assert len(fitting) <= 1, f"{name}: {fitting}"


def test_version_changelog_and_citation_agree() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((.+)\)$", changes, re.MULTILINE)
    assert newest, "no section of a version"
    assert newest[1] == purrception.__version__
    assert newest[2] == "unreleased" or datetime.date.fromisoformat(newest[2])
    assert (
        yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == purrception.__version__
    )


def test_what_the_container_copies_is_there() -> None:
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", container, re.MULTILINE) for name in line.split()]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed


def test_workflows_and_forms_can_be_read() -> None:
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob(".github/**/*.yml")}
    steps = found["ci"]["jobs"]["test"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    offered = {line.rsplit(" ")[-1] for line in PROJECT["classifiers"] if ":: 3." in line}
    assert set(found["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]) == offered
    for form in ("fault", "wish"):
        assert all("label" in part["attributes"] or part["type"] == "markdown" for part in found[form]["body"])
