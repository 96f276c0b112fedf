"""The code of a saved pipeline, for people who have diffusers but not this package.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` runs ``pipeline.py`` in the folder and, for
each part that is not diffusers' own, a file in the part's folder. They are made from the modules of this package
(:mod:`purrception.utils.bundle`). This package reads none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from purrception.storage.pipeline_folder import CODE_FILE, PORTABLE_PIPELINE
from purrception.utils.bundle import Bundle, External, bundle
from purrception.utils.version import __version__

LEFT_OUT = ("purrception.models.fused", "PurrceptionTransformer.from_pretrained")
"""The Triton kernels, which give the same numbers up to rounding, and what diffusers does itself."""
STAND_INS = {
    "PurrceptionTransformer": External("diffusers", "ModelMixin"),
    "PurrceptionScheduler": External("diffusers", "SchedulerMixin"),
}
"""What ``pipeline.py`` calls the parts whose code lies in their own folders."""


def portable_code(parts: Mapping[str, Any]) -> dict[str, str]:
    """The files of code of a pipeline, by their names in its folder.

    Args:
        parts: its parts, by name.
    """
    files = {CODE_FILE: _pipeline().text}
    for name, part in parts.items():
        kind = type(part)
        module = kind.__module__
        if module.startswith("purrception."):
            files[f"{name}/{module.rpartition('.')[2]}.py"] = _part(module, kind.__name__)
    return files


@cache
def _pipeline() -> Bundle:
    about = _header(
        """Generates images with the network, the tokenizer and the scheduler in the folders beside this file::

    pipe = DiffusionPipeline.from_pretrained(FOLDER_OR_NAME, trust_remote_code=True)
    images = pipe(num_images=8, seed=0).images

The pipeline's class stands at the end, and what it needs above it, in the order in which one needs the other."""
    )
    return bundle("purrception.generation.base", PORTABLE_PIPELINE, about, left_out=LEFT_OUT, stand_ins=STAND_INS)


@cache
def _part(module: str, kind: str) -> str:
    about = _header(f"{kind}, a part of the pipeline in the folder above.")
    # A scheduler is for loops of one's own; the pipeline asks only for its configuration.
    asked = None if kind == "PurrceptionScheduler" else _pipeline().mentions
    return bundle(module, kind, about, mentions=asked, left_out=LEFT_OUT).text


def _header(about: str) -> str:
    return f"""{about}

Made from the source of purrception {__version__} by its ``generation/portable.py``. Needs Python 3.11, torch and
diffusers. Licence: Apache-2.0.
"""
