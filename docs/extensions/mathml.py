"""Mathematics as MathML, which browsers draw themselves: a page needs neither a script nor another host."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def visit(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula; one that cannot be read is a warning, which the strict build makes an error."""
    block = isinstance(node, nodes.math_block)
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logger.warning("mathematics: %s in %s", error, node.astext(), location=node)
        formula = self.encode(node.astext())
    formula = re.sub(
        r'<mo( class="mathopen")?>‖', r'<mo\1 stretchy="false">‖', formula
    )  # bars of a norm, as TeX has them
    self.body.append(f'<div class="math">{formula}</div>\n' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
