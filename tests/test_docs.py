"""The documents are true: their commands, options, names, paths and links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import purrception
import purrception.flow
from purrception.cli.verbs import GROUPS, VERBS
from purrception.flow import SamplingConfig
from purrception.training import RunDirectory
from tests.documented import EXTRAS, PACKAGE, ROOMS, ROOT, option, options, wrong_names
from tests.test_architecture import ORDER

DOCS = ROOT / "docs"
PAGES = [page for page in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]) if page.name != "CHANGELOG.md"]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
ABOUT_NOW = [page for page in PAGES if DOCS / "results" not in page.parents]
OLD = {f"sampling.{name}" for name in SamplingConfig.RENAMED}
"""Results are shown with the command that made them, which may use older names."""
MADE = {"commands.md", "python.md", "flow.md"}
"""Pages whose headings are made while the site is built, which checks the links to them."""


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


@pytest.mark.parametrize("page", ABOUT_NOW, ids=lambda page: page.name)
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


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link to a heading of a page may say after ``#``: GitHub and the site make the same of it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", prose(page)) + re.findall(r'src="([^"]+)"', prose(page))
    for target in targets:
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        led = page.parent / path if path else page
        assert led.exists(), target
        assert not anchor or led.name in MADE or anchor in anchors(led.resolve()), target


def test_a_link_to_no_heading_is_found() -> None:
    assert "the-papers-text-and-its-code" in anchors(DOCS / "how-to/recipes.md")
    assert "the-papers-text" not in anchors(DOCS / "how-to/recipes.md")


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_no_page_installs_from_an_index_that_does_not_hold_the_package(page: Path) -> None:
    assert re.findall(r"pip install [^\n`&]*\bpurrception\b", page.read_text(encoding="utf-8")) == []


def test_the_tree_in_the_readme_names_every_room_and_what_exists() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert {name.strip("/") for name in re.findall(r"^  (\S+/)", tree, flags=re.MULTILINE)} == ROOMS
    for name in re.findall(r"^(\S+)", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_page_on_extending_gives_the_order_of_the_rooms() -> None:
    page = (DOCS / "reference/extending.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE)
    assert listed == [name for name in ORDER if (PACKAGE / name).is_dir()]


def test_the_first_page_links_every_other_in_the_order_of_its_contents() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    contents = [
        name
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page, re.DOTALL)
        for name in block.split("\n\n")[1].split()
    ]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in [*DOCS.rglob("*.md"), *NOTEBOOKS]}
    assert sorted(contents) == sorted(pages - {"index"})
    linked = re.findall(r"\]\(([\w/-]+)\.(?:md|ipynb)\)", page.split("**Start**")[1])
    assert linked == contents


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if DOCS in page.parents and page != DOCS / "index.md"],
    ids=lambda page: page.name,
)
def test_a_page_begins_with_what_one_gets_from_it(page: Path) -> None:
    assert re.search(r"\bYou get\b", page.read_text(encoding="utf-8").split("\n## ")[0])


def test_every_file_and_folder_of_a_run_is_told() -> None:
    page = (DOCS / "reference/runs.md").read_text(encoding="utf-8")
    run = RunDirectory("runs/NAME")
    paths = [path.relative_to(run.root).as_posix() for path in vars(run).values() if path != run.root]
    assert [path for path in paths if f"`{path}" not in page] == []


def test_every_extra_is_told() -> None:
    page = (DOCS / "start/install.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `([\w-]+)` \|", page, flags=re.MULTILINE)} == EXTRAS


def test_every_picture_is_in_the_gallery_with_its_command_and_commit() -> None:
    page = DOCS / "results/gallery.md"
    _, *sections = page.read_text(encoding="utf-8").split("\n## ")
    shown = {(page.parent / name).resolve() for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", "".join(sections))}
    assert shown == {*(DOCS / "images").iterdir()}
    for section in sections:
        assert re.search(r"ommit `[0-9a-f]{7}`", section), section
        made = re.search(r"```bash\n(purrception|pytest) ", section) or "first-inpainting.ipynb" in section
        assert made, section


class Resources(HTMLParser):
    """What a page of the site makes a browser load, and its formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.formulas = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given["href"] or "")
        elif tag in ("script", "img", "iframe") and given.get("src"):
            self.loaded.append(given["src"] or "")
        self.formulas += tag == "math"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Pages, links, anchors, formulas and docstrings are right; each public name and command has its entry."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    site = tmp_path / "html"  # myst-nb writes beside it
    environment = os.environ | {"PYTHONPATH": os.fspath(PACKAGE.parent)}
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-n",
        "-q",
        os.fspath(DOCS),
        os.fspath(site),
    ]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    read = {}
    for page in site.rglob("*.html"):
        read[page.relative_to(site).as_posix()] = resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert [source for source in resources.loaded if ":" in source.split("?")[0]] == []
    assert read["concepts/theory.html"].formulas > 50
    assert read["concepts/method.html"].formulas > 50
    text = {
        name: (site / f"reference/{name}.html").read_text(encoding="utf-8")
        for name in ("python", "flow", "commands")
    }
    assert [name for name in purrception.__all__ if f'id="purrception.{name}"' not in text["python"]] == []
    assert [name for name in purrception.flow.__all__ if f'id="purrception.flow.{name}"' not in text["flow"]] == []
    assert 'id="purrception.PurrceptionPipeline.from_pretrained"' in text["python"]
    assert 'id="purrception.training.config.TrainingConfig.learning_rate"' in text["python"]
    for verb in VERBS.values():
        assert f'id="{verb.name.replace(" ", "-")}"' in text["commands"]
    assert "--training.learning-rate" in text["commands"]
    notebook = (site / "how-to/first-inpainting.html").read_text(encoding="utf-8")
    assert notebook.count("_images/") >= 5
