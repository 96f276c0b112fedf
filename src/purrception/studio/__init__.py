"""The page in the browser: generate, look inside, edit, compare, read reports.

Only the modules of the page import gradio. :func:`open_studio` loads them after it has set the environment so
that gradio contacts no other machine.
"""

from purrception.studio.server import StudioOptions, open_studio
