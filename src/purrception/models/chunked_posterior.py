"""The posterior over the codebook, from logits that are multiplied out a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add, attrgetter
from typing import Any

import torch
from torch import Tensor

from purrception.flow import Posterior, PosteriorSums, TopCodes, Truncation, posterior_from_logits
from purrception.flow.temperature import check_temperature
from purrception.flow.truncation import keeps_all
from purrception.models.factored_logits import FactoredLogits

SumsFunction = Callable[[Tensor, Tensor, int, int], PosteriorSums]
"""As :meth:`purrception.flow.PosteriorSums.of`."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_posterior(
    logits: FactoredLogits,
    codebook: Tensor,
    temperature: float = 1.0,
    truncation: Truncation | None = None,
    uniforms: Tensor | None = None,
    top: int = 0,
    chunk_bytes: int | None = None,
    sums: SumsFunction = PosteriorSums.of,
) -> Posterior:
    """:func:`purrception.flow.posterior_from_logits` of every site, a chunk of logits at a time.

    A chunk covers some sites and some codes, and only sums over the codes are kept of it. A draw and a
    truncation have to see all codes of a site at once: then a chunk holds fewer sites.

    Args:
        logits: of B×h×w sites over K codes.
        codebook: standardised codes ``[K, D]``.
        temperature: τ > 0.
        truncation: which codes to keep; all if left out.
        uniforms: numbers in [0, 1), ``[B, h, w]``, to draw a code of each site.
        top: how many of the likeliest codes to name.
        chunk_bytes: memory of a chunk of logits; by default it depends on the device.
        sums: :meth:`purrception.flow.PosteriorSums.of`, or its compiled form.

    Raises:
        InputError: the temperature is not positive.
    """
    check_temperature(temperature)
    grouped = None if uniforms is None else logits.split(uniforms)

    def of_tiles(group: int, rows: slice, blocks: list[slice]) -> Posterior:
        scaled = (logits.chunk(group, rows, codes).div_(temperature)[None, None] for codes in blocks)
        parts = (sums(each, codebook[codes], codes.start, top) for each, codes in zip(scaled, blocks, strict=True))
        return reduce(add, parts).posterior()

    def of_rows(group: int, rows: slice) -> Posterior:
        chunk = logits.chunk(group, rows)[None, None]
        numbers = None if grouped is None else grouped[None, None, group, rows]
        return posterior_from_logits(chunk, codebook, temperature, truncation, numbers, top)

    if uniforms is None and keeps_all(truncation):
        return join_posteriors(logits, [of_tiles(*tile) for tile in logits.tiles(4, chunk_bytes)])
    return join_posteriors(logits, [of_rows(*chunk) for chunk in logits.chunks(4, chunk_bytes)])


def join_posteriors(logits: FactoredLogits, parts: list[Posterior]) -> Posterior:
    """Posteriors ``[1, 1, n]`` of the chunks of ``logits``, in order, as one of its sites ``[B, h, w]``."""

    def joined(of_part: Callable[[Posterior], Any]) -> Tensor:
        values = torch.cat([of_part(part)[0, 0] for part in parts])
        return logits.join(values.unflatten(0, (len(logits.weight), len(logits.rows))))

    top = None
    if parts[0].top is not None:
        top = TopCodes(joined(attrgetter("top.codes")), joined(attrgetter("top.probabilities")))
    return Posterior(
        mean=joined(lambda part: part.mean.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        entropy=joined(attrgetter("entropy")),
        max_probability=joined(attrgetter("max_probability")),
        codes=joined(attrgetter("codes")),
        drawn=None if parts[0].drawn is None else joined(attrgetter("drawn")),
        top=top,
    )
