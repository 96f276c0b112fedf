"""Reports as a person sees them in a terminal."""

from __future__ import annotations

import re

import pytest

from purrception.utils.terminal import for_terminal
from purrception.utils.text import aligned, table

HEADER = ["images", "guidance", "NFE", "Fréchet distance (95 %)", "KID", "precision", "recall", "codes used"]
ROWS = [
    [
        "real training images (floor)",
        "–",
        "–",
        "33.650 (2.198 to 65.102)",
        "217.1 ± 1.2e+03",
        "0.940",
        "0.938",
        "1",
    ],
    ["generated", "1.5", "16", "230.033 (188.462 to 271.603)", "8666 ± 1.3e+03", "0.490", "0.493", "80.1%"],
]
LONG = [[f"class {number} (taken for {number + 1})", *ROWS[1][1:]] for number in range(12)]
REPORT = "\n\n".join(
    [
        "# Evaluation",
        "**Note.** Few images.",
        table(HEADER, ROWS),
        "Floors are distances between real images alone, at the count in their row.",
        "## Class by class",
        table(HEADER, LONG),
        "The worst:",
        "![worst](worst.png)",
        "## Manifest",
        table(["what", "value"], [["seed", "0"]]),
    ]
)


@pytest.mark.parametrize("width", [50, 80, 120, 300])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_report_fits_and_breaks_no_word(monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", for_terminal(REPORT, "Evaluation"))
    assert max(map(len, shown.splitlines())) <= width
    words = {word for line in [HEADER, *ROWS, *LONG] for cell in line for word in cell.split()}
    assert words <= set(shown.replace("|", " ").split())
    assert "Manifest" not in shown
    assert "The worst:" not in shown
    order = [shown.index(part) for part in ("Class by class", "Evaluation", "Floors are", "33.650", "Note.")]
    assert order == sorted(order)
    assert ("**Note.**" in shown) != terminal


def test_a_table_of_few_rows_is_turned_and_one_of_many_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first, second = (for_terminal(f"# A\n\n{table(HEADER, rows)}").splitlines()[2:] for rows in (ROWS, LONG))
    assert re.match(r"\| guidance +\| –", first[3])
    assert len([line for line in second if line.startswith("| class 3")]) == 2


def test_a_file_takes_lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "| generated" in for_terminal(REPORT)
    assert aligned({"a": "word " * 99, "longer": "b"}) == f"a       {'word ' * 98}word\nlonger  b"


def test_long_values_go_on_below_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = aligned({"name": "a value of several words that is long", "path": "/a/" + "b" * 40}).splitlines()
    assert lines[:2] == ["name  a value of several words", "      that is long"]
    assert lines[2] == "path  /a/" + "b" * 40
