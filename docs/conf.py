"""Settings of the documentation's site.

``sphinx-build -W --keep-going -n docs site/html`` builds it, without the network; a warning is an error.
docs/reference/extending.md says more.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from purrception import __version__

project = "purrception"
author = "The purrception maintainers"
copyright = "The purrception maintainers, Apache-2.0"
release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "sphinx_copybutton", "mathml", "references"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = False
nb_execution_mode = "off"  # its outputs are kept in the file; a test runs it at tiny size

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
html_math_renderer = "mathml"

html_theme = "furo"
html_title = "purrception"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
