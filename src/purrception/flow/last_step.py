"""The last step of sampling: from the end of the path and the last posterior to a code for each site."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from purrception.flow.limits import check_named
from purrception.flow.nearest import nearest_codes
from purrception.flow.posterior import Posterior
from purrception.utils.errors import InputError

LastStep = Callable[[Tensor, Posterior, Tensor], Tensor]
"""(z at t = 1 ``[B, D, h, w]``, the last posterior, codebook ``[K, D]``) → codes, long ``[B, h, w]``."""


def _nearest(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """The codeword nearest to the end of the path (the paper's)."""
    return nearest_codes(z, codebook)


def _argmax(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """The most probable code of the last posterior."""
    return posterior.codes


def _draw(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """A draw from the last posterior."""
    if posterior.drawn is None:
        raise InputError(
            "the last step 'draw' needs a posterior with a draw: give it uniforms, one number in [0, 1) per site"
        )
    return posterior.drawn


LAST_STEPS: dict[str, LastStep] = {"nearest": _nearest, "argmax": _argmax, "draw": _draw}
"""How codes are read off at the end of sampling."""


def get_last_step(name: str) -> LastStep:
    """The last step of that name.

    Raises:
        InputError: there is none; the nearest known name is suggested.
    """
    check_named("last step", name, LAST_STEPS)
    return LAST_STEPS[name]
