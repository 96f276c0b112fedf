"""One file made from several modules."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from purrception.flow import LinearPath
from purrception.utils import bundle as module
from purrception.utils.bundle import External, bundle

SOURCES = {
    "__init__": "from toy.low import helper\n",
    "low": '''"""What stands below.

A second paragraph.
"""

from __future__ import annotations

import math
import os

LIMIT = 3
"""How many."""


def unused() -> str:
    """Not needed."""
    return os.sep


# Why it is so.
def helper(x: float) -> float:
    """The root, below the limit."""
    return min(LIMIT, math.sqrt(x))  # type: ignore[no-any-return]
''',
    "heavy": "def fast() -> bool:\n    return True\n",
    "other": "LIMIT = 4\n\n\ndef twice() -> int:\n    return 2 * LIMIT\n",
    "high": '''"""What stands above."""

from __future__ import annotations

from dataclasses import dataclass

from toy import helper
from toy.heavy import fast
from toy.other import twice


@dataclass
class Thing(list):
    """A thing."""

    size: float = 1.0
    """Its size."""

    def root(self) -> float:
        """Its root."""
        from toy.low import helper

        if fast():
            return 0.0
        return helper(self.size)

    def append(self, value: object) -> None:
        """Overrides one of another package."""

    def train(self) -> None:
        """Not asked for."""
        fast()

    def both(self) -> float:
        """Two meanings of one name."""
        return helper(1) + twice()
''',
}


def run(text: str, folder: Path) -> dict[str, Any]:
    """The names that a file defines."""
    (folder / "made.py").write_text(text, encoding="utf-8")
    return runpy.run_path(str(folder / "made.py"), run_name="made")


@pytest.fixture
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    for name, text in SOURCES.items():
        (tmp_path / f"toy/{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "PACKAGE", "toy")


@pytest.mark.usefixtures("_toy")
def test_what_is_asked_for_is_there_with_its_comments_and_nothing_else(tmp_path: Path) -> None:
    text = bundle("toy.high", "Thing", "About.", mentions=["root"], left_out=["toy.heavy"]).text
    assert text.startswith('"""About.\n"""\n\nfrom __future__ import annotations\n\nimport math\nfrom dataclasses')
    for kept in (
        "# ---- low.py ---",
        "# A second paragraph.",
        "# Why it is so.\ndef helper",
        '"""How many."""',
        "append",
    ):
        assert kept in text
    for dropped in ("unused", "import os", "train", "fast", "toy", "type: ignore", "both"):
        assert dropped not in text
    assert run(text, tmp_path)["Thing"](size=4.0).root() == 2.0


@pytest.mark.usefixtures("_toy")
def test_what_cannot_be_one_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"toy\.high needs fast, which is left out"):
        bundle("toy.high", "Thing", "About.", mentions=["train"], left_out=["toy.heavy"])
    with pytest.raises(ValueError, match="another meaning to"):
        bundle("toy.high", "Thing", "About.", mentions=["both"])


@pytest.mark.usefixtures("_toy")
def test_a_stand_in_takes_the_place_of_a_definition() -> None:
    text = bundle("toy.other", "twice", "About.", stand_ins={"LIMIT": External("math", "pi")}).text
    assert "from math import pi" in text
    assert "LIMIT = pi\n" in text
    assert "LIMIT = 4" not in text


@pytest.mark.usefixtures("_toy")
def test_a_class_is_whole_unless_something_is_left_out_or_asked_for() -> None:
    left_out = ["toy.heavy", "Thing.train", "Thing.both"]
    text = bundle("toy.high", "Thing", "About.", left_out=left_out).text
    assert "def root" in text
    assert "def train" not in text
    assert "def root" not in bundle("toy.high", "Thing", "About.", mentions=[], left_out=left_out).text


def test_the_numbers_are_those_of_the_source(tmp_path: Path) -> None:
    text = bundle("purrception.flow.paths", "LinearPath", "Paths.", mentions=["advance"]).text
    assert "def velocity" not in text
    path = run(text, tmp_path)["LinearPath"]
    z, mean = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(path().advance(z, mean, 0.2, 0.7), LinearPath().advance(z, mean, 0.2, 0.7))
