"""What the parts of a diagnosis found, as Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purrception.storage import save_png, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

REPORT_MARKDOWN, REPORT_JSON = "report.md", "report.json"


@dataclass(frozen=True)
class Section:
    """What one part found."""

    title: str
    text: list[str]
    """Markdown paragraphs; a table is one of them."""
    data: Mapping[str, Any]
    """For the JSON: plain numbers, texts and lists."""
    pictures: Mapping[str, Figure | Image] = field(default_factory=dict)
    """By file name; shown in this order, below the text."""


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_report(
    folder: Path, headline: str, protocol: Mapping[str, Any], sections: Mapping[str, Section]
) -> Path:
    """Write all of it to ``folder``, made if need be; returns the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {headline}", "", *(f"- {name}: {value}" for name, value in protocol.items()), ""]
    for section in sections.values():
        lines += [f"## {section.title}", ""]
        for paragraph in section.text:
            lines += [paragraph, ""]
        for name, picture in section.pictures.items():
            save_png(picture, folder / name)
            lines += [f"![{section.title}]({name})", ""]
    result = {"protocol": dict(protocol), **{name: plain(section.data) for name, section in sections.items()}}
    write_file(folder / REPORT_JSON, json.dumps(result, indent=2, ensure_ascii=False))
    write_file(folder / REPORT_MARKDOWN, "\n".join(lines))
    return folder / REPORT_MARKDOWN


def plain(value: Any) -> Any:
    """Records and tensors as dictionaries, lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
