"""The page in the browser: generate, look inside, edit, compare, read reports.

Only the modules of the page import gradio. :func:`open_studio` loads them after it has set the environment so
that gradio contacts no other machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.studio.server import open_studio
    from purrception.studio.settings import StudioOptions

__getattr__, __dir__ = lazy_names(__name__)
