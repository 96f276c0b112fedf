"""The posterior over the vocabulary, read from logits that are not multiplied out: a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add, attrgetter
from typing import Any

import torch
from torch import Tensor

from purrception.flow import Posterior, PosteriorSums, TopCodes, Truncation, posterior_from_logits
from purrception.flow.temperature import check_temperature
from purrception.models.chunked_loss import Kernel
from purrception.models.factored_logits import EVERY, FactoredLogits, GroupedEvidence, working_type

Sums = Callable[[Tensor, Tensor, int, int], PosteriorSums]
"""As :meth:`purrception.flow.PosteriorSums.of`."""


@dataclass(frozen=True)
class Reading:
    """How logits are read as a posterior; as the arguments of :func:`purrception.flow.posterior_from_logits`."""

    codebook: Tensor
    """Standardised codes ``[K, D]``."""
    temperature: float
    truncation: Truncation
    top: int
    sums: Sums
    """That function, or what it was compiled to."""
    kernel: Kernel = "auto"
    """What does the work; Triton's kernels leave the likeliest codes, draws, truncations, gradients and
    float64 to torch."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_posterior(
    logits: FactoredLogits,
    evidence: GroupedEvidence | None,
    reading: Reading,
    uniforms: Tensor | None,
    chunk_bytes: int | None = None,
) -> Posterior:
    """Posterior statistics of every site, a chunk of logits at a time.

    A chunk is of some sites and some codes, and sums over the codes are all that is kept of it. A draw and a
    truncation have to see all codes of a site at once: then a chunk holds fewer sites.

    Args:
        logits: of B×h×w sites over K codes.
        evidence: added to the logits.
        reading: temperature, truncation, how many of the likeliest codes to name.
        uniforms: ``[B, h, w]``, to draw a code of each site.
        chunk_bytes: memory of a chunk; left out, by the device.

    Raises:
        InputError: the temperature is not positive.
    """
    check_temperature(reading.temperature)
    chances = None if uniforms is None else logits.split(uniforms)

    def own(group: int, rows: slice, codes: slice) -> Tensor:
        chunk = logits.own(group, rows, codes)
        return chunk if evidence is None else evidence.add_to(chunk, group, rows, codes)

    def of_rows(group: int, rows: slice) -> Posterior:
        drawn = None if chances is None else chances[None, None, group, rows]
        return posterior_from_logits(
            own(group, rows, EVERY)[None, None],
            reading.codebook,
            reading.temperature,
            reading.truncation,
            drawn,
            reading.top,
        )

    def of_tiles(group: int, rows: slice, blocks: list[slice]) -> Posterior:
        sums = (
            reading.sums(
                own(group, rows, codes).div_(reading.temperature)[None, None],
                reading.codebook[codes],
                codes.start,
                reading.top,
            )
            for codes in blocks
        )
        return reduce(add, sums).posterior()

    if uniforms is None and reading.truncation == Truncation():
        parts = _fused_parts(logits, evidence, reading, chunk_bytes)
        if parts is None:
            parts = [of_tiles(*tile) for tile in logits.tiles(4, chunk_bytes)]
    else:
        parts = [of_rows(*chunk) for chunk in logits.chunks(4, chunk_bytes)]

    def joined(of_chunk: Callable[[Posterior], Any]) -> Tensor:
        """``[1, 1, n, …]`` of every chunk → ``[B, h, w, …]``."""
        values = torch.cat([of_chunk(part)[0, 0] for part in parts])
        return logits.join(values.unflatten(0, (len(logits.weight), len(logits.rows))))

    top = None
    if parts[0].top is not None:
        top = TopCodes(joined(attrgetter("top.codes")), joined(attrgetter("top.probabilities")))
    return Posterior(
        mean=joined(lambda part: part.mean.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        entropy=joined(attrgetter("entropy")),
        max_probability=joined(attrgetter("max_probability")),
        codes=joined(attrgetter("codes")),
        drawn=None if uniforms is None else joined(attrgetter("drawn")),
        top=top,
    )


def _fused_parts(
    logits: FactoredLogits, evidence: GroupedEvidence | None, reading: Reading, chunk_bytes: int | None
) -> list[Posterior] | None:
    """The posteriors by Triton's kernel, where that is chosen and does what is wanted."""
    from purrception.models.fused import chosen, posterior_fits, posterior_parts

    differentiated = torch.is_grad_enabled() and any(
        part.requires_grad for part in (logits.rows, logits.weight, logits.bias)
    )
    if reading.top or differentiated or not chosen(reading.kernel, logits.weight.device):
        return None
    logits = logits.detached(working_type(logits.weight))
    if not posterior_fits(logits, reading):
        return None
    return list(posterior_parts(logits, evidence, reading, chunk_bytes))
