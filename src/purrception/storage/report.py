"""Pictures as PNG files, and reports of several sections, as Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from purrception.storage.files import whole_file, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_MARKDOWN, REPORT_JSON, REPORT_PICTURE = "report.md", "report.json", "report.png"


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    title: str
    text: list[str]
    """Markdown paragraphs; a table is one of them."""
    data: Mapping[str, Any]
    """For the JSON: plain numbers, texts and lists, records and tensors."""
    pictures: Mapping[str, Figure | Image.Image] = field(default_factory=dict)
    """By file name; shown in this order, below the text."""


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
    result = {"protocol": dict(protocol), **{name: _plain(section.data) for name, section in sections.items()}}
    write_file(folder / REPORT_JSON, json.dumps(result, indent=2, ensure_ascii=False))
    write_file(folder / REPORT_MARKDOWN, "\n".join(lines))
    return folder / REPORT_MARKDOWN


def save_png(image: Figure | Image.Image, path: Path) -> None:
    """Write an image or a figure as a PNG file; a figure at 110 dots per inch.

    Raises:
        InputError: the disk is full.
    """
    with whole_file(path) as partial:
        if isinstance(image, Image.Image):
            image.save(partial, format="png")
        else:
            image.savefig(partial, format="png", dpi=110)


def _plain(value: Any) -> Any:
    """Records and tensors as dictionaries, lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
