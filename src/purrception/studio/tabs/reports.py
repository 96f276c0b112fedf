"""The tab *Reports*: the reports of evaluations, comparisons, sweeps and diagnoses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr

from purrception.studio.controls import QUICK
from purrception.studio.pictures import data_address
from purrception.studio.session import Studio
from purrception.training import RunDirectory
from purrception.utils.folders import absolute
from purrception.utils.text import command_line

EMPTY = """### No reports yet

These commands write reports into the run's folder; press *Reload* after them.

```
{commands}
```
"""
NO_RUN = """### No reports

Reports are written into the folder of a run; this is a pipeline without its run.
"""
LARGEST_PICTURE = 4_000_000
"""Largest number of bytes of a picture that is shown in a report."""


class ReportsTab:
    """A menu of reports, and the selected one."""

    def __init__(self, studio: Studio) -> None:
        self._root = Path(studio.target)
        verbs = ("evaluate", "sweep", "diagnose")
        commands = "\n".join(command_line([verb, absolute(studio.target)]) for verb in verbs)
        is_run = RunDirectory(studio.target).config_file.is_file()
        self._empty = EMPTY.format(commands=commands) if is_run else NO_RUN
        found = self._found()
        with gr.Row():
            menu = gr.Dropdown(
                found, value=next(iter(found), None), label="Report", elem_id="reports-menu", scale=5
            )
            reload = gr.Button("Reload", scale=1, elem_id="reports-again")
        page = gr.Markdown(self._read(found[0]) if found else self._empty, elem_id="reports-page")
        menu.change(self._read, menu, page, **QUICK)
        reload.click(self._reload, menu, [menu, page], **QUICK)

    def _found(self) -> list[str]:
        """The folders of the reports, relative to the run's folder, newest first."""
        reports = sorted(self._root.glob("*/[!.]*/report.md"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [str(path.parent.relative_to(self._root)) for path in reports]

    def _reload(self, name: str | None) -> Any:
        found = self._found()
        name = name if name in found else next(iter(found), None)
        return gr.Dropdown(found, value=name), self._read(name)

    def _read(self, name: str | None) -> str:
        """A report with its pictures embedded. Only names in the menu are accepted, so none leads elsewhere."""
        if name is None or name not in self._found():
            return self._empty
        folder = self._root / name

        def embed(match: re.Match[str]) -> str:
            picture = (folder / match[2]).resolve()
            if folder.resolve() not in picture.parents or not picture.is_file():
                return match[1]
            if picture.stat().st_size > LARGEST_PICTURE:
                return f"{match[1]} ({match[2]} is large: open it in the report's folder)"
            return f"![{match[1]}]({data_address(picture.read_bytes())})"

        return re.sub(r"!\[([^\]]*)\]\(([^)]+\.png)\)", embed, (folder / "report.md").read_text(encoding="utf-8"))
