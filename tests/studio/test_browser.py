"""The page, in a real browser, as a visitor uses it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.studio.conftest import PATIENCE, VIEWS, Server, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

ACTIONS = {
    "Generate": "generate-go",
    "Look inside": "look-go",
    "Edit": "edit-repaint",
    "Compare": "compare-go",
    "Reports": "",
}
"""The button that starts the work of each tab."""


@pytest.fixture
def visit(browser: Browser, artefacts: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    options = getattr(request, "param", {"viewport": {"width": 1280, "height": 900}})
    page = browser.new_page(**options)
    one = Visit(page, artefacts)
    yield one
    page.close()
    one.check()


@pytest.mark.parametrize("visit", VIEWS.values(), ids=VIEWS, indirect=True)
def test_tabs_and_actions_are_in_sight_and_there_is_nothing_to_stop(studio: Server, visit: Visit) -> None:
    page, size = visit.page, visit.page.viewport_size
    assert size is not None

    def in_sight(element: Locator) -> bool:
        box = element.bounding_box()
        if box is None:
            return False
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        return min(box["x"], box["y"]) >= 0 and right <= size["width"] and bottom <= size["height"]

    def fits(tab: str, action: str) -> bool:
        page.evaluate("window.scrollTo(0, 0)")  # a click before the style was there may have scrolled
        needed = [page.get_by_role("tab", name=tab, exact=True)]
        if action and tab != "Edit":
            needed.append(page.locator(f"#{action}"))
        wide = page.evaluate("document.documentElement.scrollWidth")
        return wide <= size["width"] and all(in_sight(element) for element in needed)

    visit.open(studio.url)
    for tab, action in ACTIONS.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        if action:
            page.locator(f"#{action}").wait_for()
        until = time.monotonic() + 20
        while not fits(tab, action) and time.monotonic() < until:  # it still lays itself out
            page.wait_for_timeout(100)
        assert fits(tab, action), tab
        assert not page.get_by_role("button", name="Stop", exact=True).count()


def test_the_page_uses_the_width_that_there_is(studio: Server, visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 1000, "height": 800})
    visit.open(studio.url)
    box = visit.page.locator("#tabs").bounding_box()
    assert box is not None
    assert box["width"] > 900
    cut = """[...document.querySelectorAll('input[type=range]')].filter(slider => slider.offsetParent && (
        slider.parentElement.scrollWidth > slider.parentElement.clientWidth + 1)).length"""
    assert visit.page.evaluate(cut) == 0, "the ends of sliders are cut off"


def test_generating_shows_images_their_cost_and_how_to_repeat_them(studio: Server, visit: Visit) -> None:
    visit.open(studio.url)
    page = visit.page
    visit.picture("generate-empty")
    page.locator("#generate-classes button").nth(3).click()
    page.wait_for_function("document.querySelector('#generate-class input').value === '3'")
    visit.fill("generate-number", 4)
    page.locator("#generate-go").click()
    page.wait_for_selector("#generate-command:visible")
    assert page.locator("#generate-gallery img").count() == 4
    text = page.locator("#generate-command").inner_text()
    assert "purrception sample" in re.sub(r"\s+", " ", text)
    assert "--classes 3 3 3 3" in re.sub(r"\s+", " ", text)
    assert "3 network evaluations each" in page.locator("#generate-cost").inner_text()
    visit.picture("generate")
    page.get_by_label("Uncertainty").click()
    visit.picture("generate-uncertainty")
    with page.expect_download() as download:
        page.locator("#generate-download").click()
    assert download.value.suggested_filename.endswith(".zip")


SEEN = """() => {
    window.seen = []
    const line = document.querySelector('#look-when')
    const look = () => seen.push(...(line.innerText.match(/t = .* of \\d+/g) || []))
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true})
}"""
"""Notes every moment that the line below the picture names."""


def test_looking_inside_moves_through_time_and_names_the_codes_of_a_token(studio: Server, visit: Visit) -> None:
    visit.open(studio.url, "Look inside")
    page = visit.page
    page.evaluate(SEEN)
    page.locator("#look-go").click()
    page.wait_for_selector("#look-picture img")
    page.wait_for_function("document.querySelector('#look-when').innerText.includes('t = 0.667')")
    page.wait_for_timeout(1000)
    assert set(page.evaluate("seen")) == {"t = 0.667 · evaluation 3 of 3"}  # never a moment that nobody chose
    visit.fill("look-time", 0)
    page.wait_for_function("document.querySelector('#look-when').innerText.includes('t = 0.000')")
    plain = page.locator("#look-picture img").get_attribute("src")
    page.get_by_label("Show uncertainty").click()
    page.wait_for_function("plain => document.querySelector('#look-picture img').src !== plain", arg=plain)
    page.wait_for_timeout(500)
    page.locator("#look-picture img").click(position={"x": 60, "y": 150})
    page.wait_for_selector("#look-others img", state="attached")
    assert "Token in row 2, column 1" in page.locator("#look-token").inner_text()
    assert page.locator("#look-others img").count() == 6
    assert page.locator("svg.curves").count() == 1
    visit.picture("look")


def test_painting_and_repainting(studio: Server, visit: Visit, tmp_path: Path) -> None:
    visit.open(studio.url, "Edit")
    page = visit.page
    visit.picture("edit-empty")
    page.locator("#edit-repaint").click()
    page.wait_for_selector("text=There is no picture yet")
    Image.new("L", (40, 40), 120).save(tmp_path / "grey.png")
    visit.upload(tmp_path / "grey.png")
    assert not page.locator("#edit-crop").is_visible()  # it is square
    visit.paint()
    page.locator("#edit-repaint").click()
    page.wait_for_selector("#edit-gallery img", state="attached")
    assert page.locator("#edit-gallery img").count() == 4
    text = re.sub(r"\s+", " ", page.locator("#edit-command").inner_text())
    assert "purrception edit inpaint" in text
    assert list((studio.run / "studio/edits").glob("*/mask.png"))
    visit.picture("edit")


def test_an_upload_that_is_not_square_is_cropped_before_it_is_edited(
    studio: Server, visit: Visit, tmp_path: Path
) -> None:
    visit.open(studio.url, "Edit")
    Image.linear_gradient("L").rotate(90).resize((300, 100)).save(tmp_path / "wide.png")
    visit.upload(tmp_path / "wide.png")
    visit.fill("edit-crop", 0)
    visit.page.get_by_role("tab", name="Vary", exact=True).click()
    visit.page.locator("#edit-vary").wait_for()
    assert not visit.page.locator("#edit-repaint").is_visible()  # the action of the chosen edit alone
    visit.page.wait_for_timeout(1500)  # the picture is opened again
    visit.click("edit-vary")
    visit.page.wait_for_selector("#edit-command:visible")
    edited = max((studio.run / "studio/edits").glob("*/image.png"), key=lambda path: path.stat().st_mtime)
    with Image.open(edited) as picture:
        assert picture.size == (16, 16)
        columns = np.asarray(picture.convert("L")).mean(0)
    # A ramp from left to right, of which the left third is used.
    assert abs(np.ptp(columns) - 255 / 3) < 20
    assert min(columns.min(), 255 - columns.max()) < 10


def test_a_long_job_stops_and_a_reload_starts_afresh(studio: Server, visit: Visit) -> None:
    visit.open(studio.url)
    page = visit.page
    visit.fill("generate-number", 64)
    visit.fill("generate-steps", 200)
    page.locator("#generate-go").click()
    under_way = page.locator("#generate-gallery").get_by_text("sampling")
    under_way.wait_for()
    page.locator("#generate-stop").click()
    page.wait_for_selector("text=Stopping at the next evaluation.")
    under_way.wait_for(state="hidden")
    assert not page.locator("#generate-command").is_visible()
    visit.fill("generate-number", 1)
    visit.fill("generate-steps", 2)
    page.locator("#generate-go").click()
    page.wait_for_selector("#generate-command:visible")
    assert page.locator("#generate-gallery img").count() == 1
    page.reload()
    page.wait_for_selector("#generate-go")
    assert "No images yet" in page.locator("#generate-cost").inner_text()


def test_stop_takes_back_what_still_waits_in_line(studio: Server, visit: Visit, browser: Browser) -> None:
    visit.open(studio.url)
    first, second = visit.page, browser.new_page()
    second.set_default_timeout(PATIENCE)
    second.goto(studio.url)
    second.get_by_role("tab", name="Compare", exact=True).click()
    visit.fill("generate-number", 64)
    visit.fill("generate-steps", 200)
    visit.fill("generate-guidance", 2)  # twice the work: it must last until the other's click has come through
    first.locator("#generate-go").click()
    first.locator("#generate-gallery").get_by_text("sampling").wait_for()
    second.locator("#compare-go").click()
    second.locator("#compare-gallery-A").get_by_text("queue:").wait_for()
    second.locator("#compare-stop").click()
    second.wait_for_selector("text=Stopping at the next evaluation.")
    second.locator("#compare-gallery-A").get_by_text("queue:").wait_for(state="hidden")
    first.locator("#generate-stop").click()
    first.locator("#generate-gallery").get_by_text("sampling").wait_for(state="hidden")
    visit.fill("generate-number", 1)
    visit.fill("generate-steps", 2)
    first.locator("#generate-go").click()
    first.wait_for_selector("#generate-command:visible")  # behind the other's, had that not been taken back
    assert "no images yet" in second.get_by_text("A:").inner_text()
    second.close()


def test_comparing_and_reports(studio: Server, visit: Visit) -> None:
    visit.open(studio.url, "Compare")
    page = visit.page
    visit.fill("compare-number", 2)
    visit.fill("compare-B-steps", 6)
    page.locator("#compare-go").click()
    page.wait_for_selector("text=of the tokens agree")
    assert page.locator("#compare-gallery-B img").count() == 2
    visit.picture("compare")
    page.get_by_role("tab", name="Reports", exact=True).click()
    page.wait_for_selector("#reports-page table")
    assert page.locator("#reports-page img").get_attribute("src").startswith("data:image/png;base64,")
    visit.picture("reports")


@pytest.mark.parametrize(
    "visit",
    [{"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}],
    indirect=True,
)
def test_on_a_phone_in_the_dark(studio: Server, visit: Visit) -> None:
    visit.open(f"{studio.url}/?__theme=dark")
    page = visit.page
    visit.fill("generate-number", 4)
    page.locator("#generate-go").click()
    page.wait_for_selector("#generate-command:visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.picture("phone-dark")


def test_nothing_was_looked_up(studio: Server) -> None:
    assert not studio.lookups.exists(), studio.lookups.read_text()
