"""Logits over the codebook that are not multiplied out: features times class weights, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.flow import Evidence
from purrception.flow.evidence import evidence_columns

CHUNK_BYTES = {"cpu": 16 * 2**20}
"""Size of a chunk of logits by kind of device: what stays near a processor's caches."""
ACCELERATOR_CHUNK_BYTES = 512 * 2**20
"""On any other device: enough rows to keep it busy."""
FEW_ROWS, TILE_ROWS = 64, 256
"""A chunk of fewer rows takes more rows and not all codes, where what is wanted allows it."""
EVERY = slice(None)


def chunk_budget(device: str) -> int:
    """Bytes of a chunk of logits on a kind of device."""
    return CHUNK_BYTES.get(device, ACCELERATOR_CHUNK_BYTES)


def slices(length: int, size: int) -> list[slice]:
    """``length`` cut into pieces of ``size``, the last of what is left."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True)
class FactoredLogits:
    """Logits not yet multiplied out: of group g, ``rows`` · ``weight[g]``ᵀ + ``bias[g]``.

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
        """(group, rows) of chunks so small that ``copies`` of their logits in float32 stay within the budget.

        A chunk holds at least one row, and all chunks but the last of a group are of one size.
        """
        budget = chunk_bytes or chunk_budget(self.rows.device.type)
        return self._by_rows(max(1, budget // (4 * copies * self.codes)))

    def tiles(self, copies: int, chunk_bytes: int | None = None) -> Iterator[tuple[int, slice, list[slice]]]:
        """(group, rows, slices of the codes): as :meth:`chunks`, but of some codes where rows would be few.

        Each row chunk reads all class weights: with few rows to a chunk that is what takes the time.
        """
        budget = chunk_bytes or chunk_budget(self.rows.device.type)
        capacity = max(1, budget // (4 * copies))
        count = capacity // self.codes
        if count < min(FEW_ROWS, len(self.rows)):
            capacity = max(1, capacity // 4)  # two tiles may be there at once, and small ones stay near a core
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

    def own(self, group: int, rows: slice, codes: slice = EVERY) -> Tensor:
        """The logits of a chunk, ``[n, K]``, in float32 (float64 for a head in float64)."""
        features = self.rows[rows].to(self.weight.dtype)
        logits = F.linear(features, self.weight[group, codes], self.bias[group, codes])
        return logits.to(statistics_type(self.weight))

    def detached(self, dtype: torch.dtype) -> FactoredLogits:
        """The same without a gradient, features, weights and bias in one precision."""
        rows, weight, bias = (part.detach().to(dtype) for part in (self.rows, self.weight, self.bias))
        return FactoredLogits(rows, weight, bias, self.sites)

    def full(self) -> Tensor:
        """All of them, ``[B, h, w, K]``: for tests and small vocabularies."""
        return self.join(torch.stack([self.own(group, EVERY) for group in range(len(self.weight))]))


@dataclass(frozen=True)
class GroupedEvidence:
    """Evidence in the order of groups and rows."""

    coefficients: Tensor
    """``[G, N, D + 1]``."""
    columns: Tensor
    """(e_k, |e_k|²), ``[K, D + 1]``."""

    def add_to(self, logits: Tensor, group: int, rows: slice, codes: slice = EVERY) -> Tensor:
        """Logits of a chunk with its evidence, ``[n, K]``; not in place, and never rounded by autocast."""
        with torch.autocast(logits.device.type, enabled=False):
            chosen, columns = self.coefficients[group, rows].to(logits), self.columns[codes].to(logits)
            return torch.addmm(logits, chosen, columns.T)


def group_evidence(logits: FactoredLogits, evidence: Evidence | None, codebook: Tensor) -> GroupedEvidence | None:
    """``evidence`` in the order of ``logits``."""
    if evidence is None:
        return None
    return GroupedEvidence(logits.split(evidence.coefficients), evidence_columns(codebook))


def statistics_type(weight: Tensor) -> torch.dtype:
    """Softmax and its kin are float32 whatever the network's precision (float64 in float64)."""
    return torch.promote_types(weight.dtype, torch.float32)


def working_type(weight: Tensor) -> torch.dtype:
    """The precision in which a head multiplies: autocast's, where it is on, else its own."""
    device = weight.device.type
    if not torch.amp.is_autocast_available(device):  # the meta device, where shapes are rehearsed
        device = "cpu"
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
