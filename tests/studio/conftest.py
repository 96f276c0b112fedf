"""A studio around a tiny run, on loopback, in a process that can look nothing up; and a real browser."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.forked import python

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


PATIENCE = 90_000
VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "window": {"viewport": {"width": 1000, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


@dataclass(frozen=True)
class Server:
    """A studio that is running."""

    url: str
    run: Path
    """Its run, a copy."""
    around: Path
    """The folder that holds the run; nothing else in it may change."""
    lookups: Path
    process: subprocess.Popen[str]


class Visit:
    """A page in a browser that remembers every address it asked for, and every error it logged."""

    def __init__(self, page: Page, artefacts: Path) -> None:
        self.page, self._artefacts = page, artefacts
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname or "data"))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def check(self) -> None:
        """Fail if the page logged an error or asked another machine."""
        assert self.hosts <= {"127.0.0.1", "data"}
        assert not self.errors

    def open(self, url: str, tab: str = "Generate") -> None:
        self.page.goto(url)
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def picture(self, name: str) -> None:
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self._artefacts / f"{name}.png", full_page=True)

    def click(self, element: str) -> None:
        self.page.locator(f"#{element}").click()

    def fill(self, element: str, value: float) -> None:
        """Type into a number field or the number of a slider."""
        field = self.page.locator(f"#{element} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")

    def upload(self, picture: Path) -> None:
        """Give a picture to the tab *Edit*, and wait until it can be painted."""
        self.page.locator("#edit-upload input[type=file]").set_input_files(picture)
        self.page.wait_for_selector("#edit-editor canvas")
        self.page.wait_for_timeout(1500)  # the editor draws itself

    def paint(self) -> None:
        """Paint a stroke in the middle of the picture in the tab *Edit*."""
        canvas = self.page.locator("#edit-editor canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x - 60, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 60, y + 30, steps=6)
        self.page.mouse.up()
        self.page.wait_for_timeout(500)


def start_studio(run: Path, around: Path, *options: str) -> Server:
    """``purrception studio``, as a person starts it, in a process of its own that can look nothing up."""
    (around / "guard").mkdir(exist_ok=True)
    (around / "tmp").mkdir(exist_ok=True)
    lookups = around / "guard/lookups"
    environment = {"LOOKUPS": str(lookups), "TMPDIR": str(around / "tmp"), "PYTHONUNBUFFERED": "1"}
    log = (around / "guard/log").open("w+")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    process = subprocess.Popen(
        [python(), "-m", "purrception", "studio", str(run), *options],
        env=os.environ | environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=around,
        # as many open files as most systems allow
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most)),
    )
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", (around / "guard/log").read_text()):
            return Server(found[0], run, around, lookups, process)
        time.sleep(0.2)
    process.kill()
    raise AssertionError((around / "guard/log").read_text())


def stop_studio(server: Server) -> None:
    """End it, and wait."""
    server.process.terminate()
    server.process.wait(timeout=20)


@pytest.fixture(scope="session")
def studio(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio for all tests, which begin with a page of their own."""
    pytest.importorskip("gradio")
    around = tmp_path_factory.mktemp("studio")
    shutil.copytree(tiny_run, around / "tiny")
    report = around / "tiny/evaluation/000"
    report.mkdir(parents=True)
    (report / "report.md").write_text("# Evaluation\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n![grid](grid.png)\n")
    shutil.copy(next((around / "tiny/samples").glob("*.png")), report / "grid.png")
    server = start_studio(around / "tiny", around)
    yield server
    stop_studio(server)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    if not Path(CHROMIUM).exists():
        pytest.skip("Debian's chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield made
        made.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: PURRCEPTION_ARTEFACTS, or a temporary folder."""
    named = os.environ.get("PURRCEPTION_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
