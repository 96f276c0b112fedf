"""What a painter's browser sends apart from the rest, stroke by stroke: kept within limits."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

MOST_LAYERS = 4
MOST_PAINTINGS = 2
"""Paintings that wait to be worked on, of each visitor."""

_accept = gr.ImageEditor.accept_blobs


@functools.wraps(_accept)
def _accept_some(editor: gr.ImageEditor, data: Any) -> Any:
    """Gradio's own, which believes any layer number and keeps every painting that nobody asks for.

    Raises:
        gr.Error: no layer has that number.
    """
    number = str(data.data.get("index") or "0")
    if number != "null" and not (number.isdecimal() and len(number) < 3 and int(number) < MOST_LAYERS):
        raise gr.Error(f"a painting has at most {MOST_LAYERS} layers", print_exception=False)
    answer = _accept(editor, data)
    while len(editor.blob_storage) > MOST_PAINTINGS:
        del editor.blob_storage[next(iter(editor.blob_storage))]
    return answer


def limit_paintings() -> None:
    """Put these limits in place; a class of our own would have gradio write a file beside this one."""
    gr.ImageEditor.accept_blobs = _accept_some  # type: ignore[method-assign]
