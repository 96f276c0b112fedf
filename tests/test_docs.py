"""The documents are true: their commands, options, names, paths and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from purrception.cli.verbs import GROUPS, VERBS
from purrception.flow import SamplingConfig
from purrception.training import RunDirectory
from tests.documented import PACKAGE, ROOMS, ROOT, option, options, wrong_names
from tests.test_architecture import ORDER

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ABOUT_NOW = [page for page in PAGES if DOCS / "results" not in page.parents]
OLD = {f"sampling.{name}" for name in SamplingConfig.RENAMED}
"""Results are shown with the command that made them, which may use older names."""


def commands(page: Path) -> list[str]:
    """Every ``purrception …`` line in a page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    found = [re.search(r"(?:^|/| )purrception ([a-z].*)", line.strip()) for line in lines]
    return [match.group(1) for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_use_verbs_and_options_that_exist(page: Path) -> None:
    for command in commands(page):
        verb, *words = shlex.split(command, comments=True)
        if verb in GROUPS:
            verb = f"{verb} {words[0]}"
        assert verb in VERBS, command
        given = {option(word) for word in words if word.startswith("--")}
        assert given - (set() if page in ABOUT_NOW else OLD) <= options(verb), command


@pytest.mark.parametrize("page", [ROOT / "SECURITY.md", *ABOUT_NOW], ids=lambda page: page.name)
def test_names_and_paths_exist(page: Path) -> None:
    assert [*wrong_names(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`purrception smaple runs/digits`", "smaple"),
        ("`purrception sample runs/digits --nmu 3`", "--nmu"),
        ("`sample --training.steps 3`", "--training.steps"),
        ("`--no-such-option`", "--no-such-option"),
        ("`--sampling.…` and `--smapling.…`", "--smapling.…"),
        ("see purrception.flow.paths and purrception.flow.solver", "purrception.flow.solver"),
        ("`flow.LinearPath.advance`, `flow.LinearPath.retreat`", "flow.LinearPath.retreat"),
        ("`paths.LinearPath`, `paths.CurvedPath`", "paths.CurvedPath"),
        ("`training.batch_size`, `training.size_of_batch`", "training.size_of_batch"),
        ("`LinearPath` and `CurvedPath`", "CurvedPath"),
        ("`head.loss(…)`, `head.gain(…)`", "head.gain"),
        ("`build_objective(config)`, `make_objective(config)`", "make_objective"),
        ("`keep_pixels=True`, `lose_pixels=True`", "lose_pixels"),
        ("`config.yaml` and `confug.yaml`", "confug.yaml"),
        ("`flow/paths.py` and `flow/curved.py`", "flow/curved.py"),
        ("```bash\npython benchmarks/editing.py && pytest tests/test_nothing.py\n```", "tests/test_nothing.py"),
        ("```python\nfrom purrception.flow import euler, runge\n```", "purrception.flow.runge"),
        (
            "```python\nfrom purrception.flow import SamplingConfig\nSamplingConfig(stpes=1)\n```",
            "SamplingConfig(stpes=)",
        ),
        ("```python\npipe.vary(picture, strength=1)\npipe.inpaint(picture, maks=1)\n```", "inpaint(maks=)"),
    ],
)
def test_a_wrong_name_is_found(text: str, wrong: str) -> None:
    assert [*wrong_names(text)] == [wrong]


def test_the_readme_has_the_commands_that_ci_and_people_start_with() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- main command -->\n```bash\n" in text
    assert "<!-- test command -->\n```bash\n" in text
    assert len(commands(ROOT / "README.md")) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tree_in_the_readme_names_every_room_and_what_exists() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert {name.strip("/") for name in re.findall(r"^  (\S+/)", tree, flags=re.MULTILINE)} == ROOMS
    for name in re.findall(r"^(\S+)", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_page_on_extending_gives_the_order_of_the_rooms() -> None:
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE)
    assert listed == [name for name in ORDER if (PACKAGE / name).is_dir()]


def test_the_first_page_links_every_other_and_names_every_folder_of_a_run() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {*re.findall(r": (\S+\.md)$", nav, flags=re.MULTILINE)} == pages
    assert {name for name in pages if f"]({name})" not in page} == {"index.md"}
    run = RunDirectory("runs/NAME")
    paths = [path.relative_to(run.root).as_posix() for path in vars(run).values() if path != run.root]
    assert [path for path in paths if f"`{path}" not in page] == []
