"""Reports in a terminal: what their Markdown says, in tables that fit the width, with the result at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from purrception.utils.text import terminal_width

WIDEST_TEXT = 100
"""Columns after which paragraphs are wrapped at the latest: longer lines are hard to read."""
FILE_ONLY = ("Manifest",)
"""Sections that are read in the file."""
GAP = 3
"""Columns that a table needs besides its cells, for each of them."""
SHORT = 18
"""Cells up to this length stay on one line."""
NUMBER = re.compile(r"[\s\d.,%e+±≤≥–*-]+")
MARKED = re.compile(r"(\*\*.+?\*\*|`.+?`)")

Lines = Sequence[Sequence[Text]]
"""The header of a table and its rows."""


def for_terminal(markdown: str, result: str = "") -> str:
    """A report as text for the terminal, or for a file if the output goes to one.

    Pictures and the manifest are left out, since they are in the report's folder. Within a section tables follow
    the explanations, and what begins in bold, such as a verdict or a warning, comes last.

    Args:
        markdown: the report.
        result: title of the section to show at the end; by default sections keep their order.
    """
    width = terminal_width()
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        for title, parts in sorted(_sections(markdown), key=lambda section: section[0] == result):
            console.print(Text(title, "bold"), end="\n\n")
            for part in sorted(parts, key=lambda part: (part.startswith("**"), part.startswith("|"))):
                if part.startswith("|"):
                    _print_table(part, console)
                else:
                    text = _styled(part, console)
                    console.print(text, width=min(width, WIDEST_TEXT) if console.is_terminal else None)
                console.print()
    lines = (line.rstrip() for line in captured.get().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip())


def _sections(markdown: str) -> list[tuple[str, list[str]]]:
    """The titles of a report with their paragraphs and tables."""
    found: list[tuple[str, list[str]]] = []
    for part in filter(None, (part.strip() for part in markdown.split("\n\n"))):
        if part.startswith("#"):
            found.append((part.lstrip("# "), []))
        elif not part.startswith("!["):
            found[-1][1].append(part)
        elif found[-1][1] and found[-1][1][-1].endswith(":"):
            found[-1][1].pop()  # the caption of a picture
    return [(title, parts) for title, parts in found if parts and title not in FILE_ONLY]


def _styled(text: str, console: Console) -> Text:
    """Bold letters for Markdown's signs, which stay in a file."""
    made = Text()
    for piece in MARKED.split(text):
        marked = console.is_terminal and MARKED.fullmatch(piece)
        made.append(piece.strip("*`") if marked else piece, "bold" if marked else None)
    return made


def _print_table(markdown: str, console: Console) -> None:
    lines = [[_styled(cell, console) for cell in line[2:-2].split(" | ")] for line in markdown.splitlines()]
    for part in _fitting([lines[0], *lines[2:]], console.width):
        console.print(_table(part, console))


def _fitting(lines: Lines, room: int) -> Iterator[Lines]:
    """A table that fits: as it is, with rows and columns exchanged, or its columns in several tables."""
    turned = [*zip(*lines, strict=True)]
    for shape in (lines, turned):
        if _fits(shape, room):
            yield shape
            return
    first, *others = turned
    while others:
        count = len(others)
        while count > 1 and not _fits([*zip(first, *others[:count], strict=True)], room):
            count -= 1
        yield [*zip(first, *others[:count], strict=True)]
        others = others[count:]


def _fits(lines: Lines, room: int) -> bool:
    return sum(_least_widths(lines)) + GAP * len(lines[0]) < room


def _least_widths(lines: Lines) -> list[int]:
    """The width of each column in which no word, and no short phrase, is broken."""
    return [max(map(_least_width, column)) for column in zip(*lines, strict=True)]


def _least_width(cell: Text) -> int:
    words = [cell.plain] if cell.cell_len <= SHORT else cell.plain.split()
    return max(map(cell_len, words))


def _table(lines: Lines, console: Console) -> Table:
    least, columns = _least_widths(lines), [*zip(*lines, strict=True)]
    wanted = [max(cell.cell_len for cell in column) for column in columns]
    widths, room = wanted, console.width - 1 - GAP * len(columns)
    for most in range(max(wanted) - 1, 0, -1):  # the widest columns are narrowed first
        if sum(widths) <= room:
            break
        widths = [max(low, min(width, most)) for low, width in zip(least, wanted, strict=True)]
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN, show_edge=not console.is_terminal)
    for column, width in zip(columns, widths, strict=True):
        numbers = all(NUMBER.fullmatch(cell.plain) for cell in column[1:])
        table.add_column(column[0], width=width, justify="right" if numbers else "left")
    for row in lines[1:]:
        table.add_row(*row)
    return table
