"""The edits of the page, without a server: their images, and the command lines that make them again."""

from __future__ import annotations

import shlex
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

gr = pytest.importorskip("gradio")

from purrception.cli import main  # noqa: E402 - gradio is optional
from purrception.studio.session import Studio  # noqa: E402
from purrception.studio.tabs.edit import EditTab  # noqa: E402
from purrception.studio.tabs.generate import GenerateTab  # noqa: E402

REQUEST = SimpleNamespace(session_hash="me")


@pytest.fixture(scope="module")
def page(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Studio, EditTab]:
    folder = tmp_path_factory.mktemp("edits") / "tiny"
    shutil.copytree(tiny_run, folder)
    studio = Studio(str(folder), torch.device("cpu"))
    with gr.Blocks():
        return studio, EditTab(studio, GenerateTab(studio))


def painted() -> dict[str, Any]:
    layer = np.zeros((384, 384, 4), np.uint8)
    layer[:192, :192] = 255
    return {"layers": [layer]}


@pytest.mark.parametrize("edit", ["repaint", "repaint beside", "vary", "refine", "interpolate"])
def test_an_edit_comes_with_the_command_that_repeats_it(page: tuple[Studio, EditTab], edit: str) -> None:
    studio, tab = page
    picture = studio.pipeline.sample([3], studio.defaults, 1).images[0]
    generated = studio.generate([3, 4], studio.defaults, 5, "me", lambda share: None)
    settings = [component.value for component in tab._controls.components]
    by_class, by_none = (["3", 2, 7, *settings], ["any class", 2, 7, *settings])
    method, values = {
        "repaint": (tab._repaint, [picture, painted(), 0, False, "auto", *by_class]),
        "repaint beside": (tab._repaint, [picture, painted(), 1, True, "resampling", *by_none]),
        "vary": (tab._vary, [picture, 0.6, *by_class]),
        "refine": (tab._refine, [generated, 0.5, *by_class]),
        "interpolate": (tab._interpolate, [8, *by_none]),
    }[edit]
    _, cost, command, _ = method(REQUEST, lambda share: None, *values)
    assert cost.startswith("**2** images")
    assert ("tokens changed" in cost) == (edit == "refine")
    assert ("--conditioning resampling" in command.value) == (edit == "repaint beside")
    again = studio.folder / edit.replace(" ", "-")
    assert main([*shlex.split(command.value)[1:], "--out", str(again)]) == 0
    with zipfile.ZipFile(max((studio.folder / "downloads").glob("*.zip"))) as download:
        for name in ("00000.png", "00001.png"):
            assert download.read(name) == (again / name).read_bytes()
