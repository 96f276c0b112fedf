"""Image generation in vector-quantised latent spaces with variational flow matching.

Public names are imported when first used: ``import purrception`` costs nothing. It bounds how long threads of
OpenMP spin, before PyTorch is loaded: see docs/results/performance.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names
from purrception.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from purrception.experiment.config import RunConfig, load_config
    from purrception.experiment.recipes import get_recipe
    from purrception.experiment.run import resume_run, start_run
    from purrception.experiment.saved_run import load_pipeline
    from purrception.generation.outputs import PurrceptionOutput
    from purrception.generation.pipeline import PurrceptionPipeline
    from purrception.generation.scheduler import PurrceptionScheduler
    from purrception.models import PurrceptionTransformer
    from purrception.tokenizers import UnnormalisedVQModel, VQTokenizer
    from purrception.utils.errors import InputError

__getattr__, __dir__ = lazy_names(__name__)

SPINS = 200
"""Rounds that a thread of GNU OpenMP spins for the others before it sleeps: a small part of a time slice. GNU's
own 300 000 may outlast a slice, and threads that share their cores with other programs then starve each other."""
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & os.environ.keys():  # a person's own settings stand
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)


__all__ = [
    "InputError",
    "PurrceptionOutput",
    "PurrceptionPipeline",
    "PurrceptionScheduler",
    "PurrceptionTransformer",
    "RunConfig",
    "UnnormalisedVQModel",
    "VQTokenizer",
    "get_recipe",
    "load_config",
    "load_pipeline",
    "resume_run",
    "start_run",
]
