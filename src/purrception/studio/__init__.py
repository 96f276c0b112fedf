"""The page in the browser: generate, look inside, edit, compare, read reports.

Nothing here imports gradio but the modules of the page itself, which :func:`open_studio` loads once the
environment is such that no look-up leaves the machine.
"""

from purrception.studio.server import StudioOptions, open_studio

__all__ = ["StudioOptions", "open_studio"]
