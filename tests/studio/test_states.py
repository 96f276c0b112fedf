"""Pictures of every tab in every state, to look at: empty, busy, done and after an error.

They are kept where ``PURRCEPTION_ARTEFACTS`` says, with a page that shows them side by side (``states.html``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.studio.conftest import VIEWS, Server, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

THEMES = ("light", "dark")
SHOWN = [*VIEWS] if os.environ.get("PURRCEPTION_ARTEFACTS") else ["desktop", "phone"]
"""The sizes of the window: all where somebody wants the pictures."""
LONG, SHORT = 200, 3
"""Numbers of steps that take long enough to look at the page, and that do not."""


def generate(visit: Visit, picture: Path) -> Iterator[str]:
    """States of the tab *Generate*; the page is in each of them when its name is given."""
    yield "empty"
    visit.fill("generate-number", 64)
    visit.fill("generate-steps", LONG)
    visit.click("generate-go")
    visit.page.wait_for_selector("#generate-stop")
    yield "busy"
    visit.page.wait_for_selector("#generate-stop", state="hidden")
    visit.fill("generate-number", 8)
    visit.fill("generate-steps", SHORT)
    visit.click("generate-go")
    visit.page.wait_for_selector("#generate-command:visible")
    yield "done"
    visit.page.get_by_label("Uncertainty").click()
    visit.page.wait_for_selector("#generate-scale .scale")
    yield "done: uncertainty"
    yield from failing(visit, "generate")


def look_inside(visit: Visit, picture: Path) -> Iterator[str]:
    """States of the tab *Look inside*."""
    yield "empty"
    visit.fill("look-steps", 100)
    visit.click("look-go")
    visit.page.wait_for_selector("#look-stop")
    yield "busy"
    visit.page.wait_for_selector("#look-stop", state="hidden")
    visit.fill("look-steps", SHORT)
    visit.click("look-go")
    visit.page.wait_for_function("document.querySelector('#look-when').innerText.includes('of 3')")
    visit.fill("look-time", 1)
    visit.page.wait_for_function("document.querySelector('#look-when').innerText.includes('t = 0.333')")
    visit.page.wait_for_timeout(500)  # for the picture
    visit.page.locator("#look-picture img").click(position={"x": 150, "y": 60})
    visit.page.wait_for_selector("#look-others img")
    yield "done"
    visit.page.get_by_label("Show uncertainty").click()
    visit.page.wait_for_selector("#look-scale .scale")
    yield "done: uncertainty"
    yield from failing(visit, "look")


def edit(visit: Visit, picture: Path) -> Iterator[str]:
    """States of the tab *Edit*."""
    yield "empty"
    visit.upload(picture)
    yield "a picture"
    visit.paint()
    visit.fill("edit-steps", LONG // 4)  # it takes gradients as well
    visit.click("edit-repaint")
    visit.page.wait_for_selector("#edit-stop")
    yield "busy"
    visit.page.wait_for_selector("#edit-command:visible")
    yield "done"
    yield from failing(visit, "edit", "repaint")


def compare(visit: Visit, picture: Path) -> Iterator[str]:
    """States of the tab *Compare*."""
    yield "empty"
    visit.fill("compare-A-steps", LONG)
    visit.click("compare-go")
    visit.page.wait_for_selector("#compare-stop")
    yield "busy"
    visit.page.wait_for_selector("text=of the tokens agree")
    yield "done"
    yield from failing(visit, "compare", settings="compare-A")


def reports(visit: Visit, picture: Path) -> Iterator[str]:
    """The tab *Reports*, which does nothing but show."""
    visit.page.wait_for_selector("#reports-page table")
    yield "done"


def failing(visit: Visit, tab: str, button: str = "go", settings: str = "") -> Iterator[str]:
    """An error, which its notice tells, and nothing else on the page."""
    settings = f"{settings or tab}-schedule"
    visit.page.locator("#tabs").get_by_text("More", exact=True).locator("visible=true").first.click()
    visit.page.wait_for_timeout(500)  # it opens
    schedule = visit.page.locator(f"#{settings} :is(input, textarea)")
    schedule.fill("linaer:1:0.7")
    schedule.press("Tab")
    visit.click(f"{tab}-{button}")
    visit.page.wait_for_selector(".toast-body >> text=linaer")
    visit.page.wait_for_selector(f"#{tab}-stop", state="hidden")
    assert not visit.page.locator("[data-testid=status-tracker] .error >> visible=true").count()
    yield "error"


TABS: dict[str, Callable[[Visit, Path], Iterator[str]]] = {
    "Generate": generate,
    "Look inside": look_inside,
    "Edit": edit,
    "Compare": compare,
    "Reports": reports,
}


@pytest.fixture(scope="module")
def sheet(artefacts: Path) -> Iterator[dict[tuple[str, str], list[str]]]:
    """Files of pictures by view and tab, from which the page that shows them is made."""
    rows: dict[tuple[str, str], list[str]] = {}
    yield rows
    figures = "".join(
        f"<h2>{view}, {tab}</h2>"
        + "".join(
            f"<figure><a href='{name}'><img src='{name}' width=300 alt=''></a>"
            f"<figcaption>{Path(name).stem}</figcaption></figure>"
            for name in names
        )
        for (view, tab), names in rows.items()
    )
    style = "<style>figure { display: inline-block; margin: 8px; vertical-align: top; }</style>"
    page = f"<!doctype html><meta charset=utf-8><title>States of the studio</title>{style}{figures}"
    (artefacts / "states.html").write_text(page, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("view", SHOWN)
def test_every_state_of_every_tab(
    studio: Server,
    browser: Browser,
    artefacts: Path,
    tmp_path: Path,
    sheet: dict[tuple[str, str], list[str]],
    view: str,
    tab: str,
) -> None:
    wide = tmp_path / "wide.png"
    Image.linear_gradient("L").resize((300, 180)).save(wide)
    page = browser.new_page(**VIEWS[view])
    visit = Visit(page, artefacts)
    visit.open(studio.url, tab)
    for state in TABS[tab](visit, wide):
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= VIEWS[view]["viewport"]["width"], f"{state}: the page is {scroll} pixels wide"
        for theme in THEMES:
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            name = f"{view}-{tab}-{state}-{theme}".lower().replace(": ", "-").replace(" ", "-")
            visit.picture(name)
            sheet.setdefault((view, tab), []).append(f"{name}.png")
    page.close()
    visit.check()
