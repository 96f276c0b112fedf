"""Limits for the paintings that gradio's editor sends to the server, stroke by stroke."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

MAX_LAYERS = 4
MAX_PAINTINGS = 2
"""Number of paintings of a visitor that are kept until they are used."""

_original = gr.ImageEditor.accept_blobs


@functools.wraps(_original)
def _accept_blobs(editor: gr.ImageEditor, data: Any) -> Any:
    """Gradio's own method, which accepts any layer number and keeps all unused paintings, with limits.

    Raises:
        gr.Error: the layer number is not valid.
    """
    number = str(data.data.get("index") or "0")
    if number != "null" and not (number.isdecimal() and len(number) < 3 and int(number) < MAX_LAYERS):
        raise gr.Error(f"a painting has at most {MAX_LAYERS} layers", print_exception=False)
    answer = _original(editor, data)
    while len(editor.blob_storage) > MAX_PAINTINGS:
        del editor.blob_storage[next(iter(editor.blob_storage))]
    return answer


def limit_paintings() -> None:
    """Install the limits. For a subclass, gradio would write a file beside this module."""
    gr.ImageEditor.accept_blobs = _accept_blobs  # type: ignore[method-assign]
