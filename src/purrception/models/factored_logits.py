"""Logits over the codebook that are not multiplied out: features times class weights, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.flow import Evidence
from purrception.flow.evidence import evidence_columns
from purrception.utils.devices import autocast_device, full_precision

CPU_CHUNK_BYTES = 16 * 2**20
"""Size of a chunk of logits on a CPU: about what its caches hold."""
ACCELERATOR_CHUNK_BYTES = 512 * 2**20
"""Size of a chunk of logits on any other device: enough rows to keep it busy."""
FEW_ROWS, TILE_ROWS = 64, 256
"""A chunk that would hold fewer than FEW_ROWS rows becomes a tile of TILE_ROWS rows and some of the codes."""
ALL = slice(None)


def chunk_budget(device: str) -> int:
    """Bytes of a chunk of logits on a type of device, such as cpu or cuda."""
    return CPU_CHUNK_BYTES if device == "cpu" else ACCELERATOR_CHUNK_BYTES


def slices(length: int, size: int) -> list[slice]:
    """Cut ``length`` into slices of ``size``; the last one holds the rest."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True)
class FactoredEvidence:
    """Evidence in the order of groups and rows of :class:`FactoredLogits`."""

    coefficients: Tensor
    """``[G, N, D + 1]``."""
    columns: Tensor
    """(e_k, |e_k|²), ``[K, D + 1]``."""

    def add_to(self, logits: Tensor, group: int, rows: slice, codes: slice = ALL) -> Tensor:
        """Logits of a chunk with its evidence, ``[n, K]``: a new tensor, never rounded by autocast."""
        with full_precision(logits.device):
            coefficients, columns = self.coefficients[group, rows].to(logits), self.columns[codes].to(logits)
            return torch.addmm(logits, coefficients, columns.T)


@dataclass(frozen=True)
class FactoredLogits:
    """Logits not yet multiplied out: in group g, ``rows`` · ``weight[g]``ᵀ + ``bias[g]``, plus the evidence.

    A group is a place within a patch. A head whose patch of p² sites shares one feature vector has p² groups
    of weights over N = B·h·w/p² rows; one with a feature vector per site has one group over B·h·w rows.
    """

    rows: Tensor
    """Features ``[N, r]``."""
    weight: Tensor
    """Class weights ``[G, K, r]``."""
    bias: Tensor
    """``[G, K]``."""
    sites: tuple[int, int, int]
    """(B, h, w)."""
    evidence: FactoredEvidence | None = None
    """What is added to the network's own logits."""

    def with_evidence(self, evidence: Evidence | None, codebook: Tensor) -> FactoredLogits:
        """These logits plus the evidence of the same sites for the codes ``[K, D]``."""
        if evidence is None:
            return self
        factors = FactoredEvidence(self.split(evidence.coefficients), evidence_columns(codebook))
        return replace(self, evidence=factors)

    @property
    def _patch(self) -> int:
        return round(len(self.weight) ** 0.5)

    def split(self, sites: Tensor) -> Tensor:
        """``[B, h, w, …]`` → ``[G, N, …]``, the order of groups and rows."""
        batch, height, width = self.sites
        p = self._patch
        tail = sites.shape[3:]
        patches = sites.reshape(batch, height // p, p, width // p, p, *tail).movedim((2, 4), (0, 1))
        return patches.reshape(p * p, -1, *tail)

    def join(self, groups: Tensor) -> Tensor:
        """``[G, N, …]`` → ``[B, h, w, …]``; undoes :meth:`split`."""
        batch, height, width = self.sites
        p = self._patch
        tail = groups.shape[2:]
        patches = groups.reshape(p, p, batch, height // p, width // p, *tail).movedim((0, 1), (2, 4))
        return patches.reshape(batch, height, width, *tail)

    def chunks(self, copies: int, chunk_bytes: int | None = None) -> Iterator[tuple[int, slice]]:
        """(group, rows) of chunks small enough for ``copies`` of their logits in float32 to stay in the budget.

        A chunk holds at least one row. All chunks of a group but its last have the same size.
        """
        budget = chunk_bytes or chunk_budget(self.rows.device.type)
        return self._by_rows(max(1, budget // (4 * copies * self.codes)))

    def tiles(self, copies: int, chunk_bytes: int | None = None) -> Iterator[tuple[int, slice, list[slice]]]:
        """(group, rows, slices of the codes): like :meth:`chunks`, but split by codes where rows would be few.

        Every chunk of rows reads all class weights, which would take most of the time if its rows were few.
        """
        budget = chunk_bytes or chunk_budget(self.rows.device.type)
        capacity = max(1, budget // (4 * copies))
        count = capacity // self.codes
        if count < min(FEW_ROWS, len(self.rows)):
            capacity = max(1, capacity // 4)  # two tiles may be alive at once, and small ones fit a core's cache
            count = min(TILE_ROWS, len(self.rows), capacity)
        codes = slices(self.codes, capacity // count)
        for group, rows in self._by_rows(count):
            yield group, rows, codes

    @property
    def codes(self) -> int:
        """K."""
        return self.weight.shape[1]

    def _by_rows(self, count: int) -> Iterator[tuple[int, slice]]:
        for group in range(len(self.weight)):
            for rows in slices(len(self.rows), count):
                yield group, rows

    def own(self, group: int, rows: slice, codes: slice = ALL) -> Tensor:
        """The network's own logits of a chunk, ``[n, K]``, in float32 (float64 for a head in float64)."""
        features = self.rows[rows].to(self.weight.dtype)
        logits = F.linear(features, self.weight[group, codes], self.bias[group, codes])
        return logits.to(statistics_type(self.weight))

    def own_and_sum(self, group: int, rows: slice, codes: slice = ALL) -> tuple[Tensor, Tensor | None]:
        """The network's own logits of a chunk, and those with evidence where there is any, each ``[n, K]``."""
        own = self.own(group, rows, codes)
        return own, None if self.evidence is None else self.evidence.add_to(own, group, rows, codes)

    def chunk(self, group: int, rows: slice, codes: slice = ALL) -> Tensor:
        """The logits of a chunk, ``[n, K]``: with evidence where there is any."""
        own, total = self.own_and_sum(group, rows, codes)
        return own if total is None else total

    def detached(self, dtype: torch.dtype) -> FactoredLogits:
        """The same without a gradient; features, weights and bias in one precision."""
        rows, weight, bias = (part.detach().to(dtype) for part in (self.rows, self.weight, self.bias))
        return replace(self, rows=rows, weight=weight, bias=bias)

    def full(self) -> Tensor:
        """All of the network's own logits, ``[B, h, w, K]``: for tests and small codebooks."""
        return self.join(torch.stack([self.own(group, ALL) for group in range(len(self.weight))]))


def statistics_type(weight: Tensor) -> torch.dtype:
    """Float32 for softmax, logsumexp and the like whatever the network's precision (float64 in float64)."""
    return torch.promote_types(weight.dtype, torch.float32)


def working_type(weight: Tensor) -> torch.dtype:
    """The precision in which a head multiplies: that of autocast where it is on, else its own."""
    device = autocast_device(weight.device)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
