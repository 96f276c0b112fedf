"""Warm start: training from the weights of another pipeline, with a record of what was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.generation.pipeline import PurrceptionPipeline
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import fingerprint
from purrception.utils.errors import InputError

LABEL_EMBEDDING = "backbone.label.weight"
CODEBOOK = "head.codebook"
CODE_WEIGHTS = ("backbone.patch.", "backbone.positions", "head.", "tokens.")
"""Prefixes of weights that depend on the codes and the grid, and mean nothing under another tokenizer."""


@dataclass(frozen=True)
class WarmStart:
    """What a network took from another one, by the names of its weights."""

    source: str
    """Where the other network came from."""
    source_hash: str
    """SHA-256 of the other network's weights."""
    kept: tuple[str, ...]
    """Weights taken unchanged."""
    resized: tuple[str, ...]
    """Weights that were cut or grown, and how."""
    new: tuple[str, ...]
    """Weights that stay freshly initialised, and why."""

    def markdown(self) -> str:
        """The record as Markdown."""
        lines = [f"# Started from {self.source}", "", f"Its weights: SHA-256 {self.source_hash}.", ""]
        for title, names in (("Kept", self.kept), ("Resized", self.resized), ("New", self.new)):
            lines += [f"## {title}: {len(names)} tensors", "", *[f"- {name}" for name in names], ""]
        return "\n".join(lines)

    def __str__(self) -> str:
        """The record in one line."""
        counts = f"{len(self.kept)} tensors kept, {len(self.resized)} resized, {len(self.new)} new"
        return f"started from {self.source}: {counts}"


@torch.no_grad()
def warm_start(
    network: PurrceptionTransformer,
    source: PurrceptionPipeline,
    name: str,
    tokenizer_hash: str,
    class_names: Sequence[str],
) -> WarmStart:
    """Take the weights of another pipeline that fit.

    A class of the same name keeps its row of the label embedding, and so does the null class; other classes start
    from the source's null class, which stands for any class. Weights that depend on the codes are taken only if
    the tokenizer is the same.

    Args:
        network: a freshly initialised network, changed in place.
        source: the pipeline whose weights are taken.
        name: name of the source, for the record.
        tokenizer_hash: hash of the tokenizer of ``network``.
        class_names: classes of ``network``, by label.

    Raises:
        InputError: no block fits, as for a network of another width.
    """
    source_weights, weights = source.transformer.state_dict(), network.state_dict()
    same_codes = source.tokenizer.fingerprint == tokenizer_hash
    kept: list[str] = []
    resized: list[str] = []
    new: list[str] = []
    for key, weight in weights.items():
        if key == CODEBOOK:
            continue
        other = source_weights.get(key)
        if key == LABEL_EMBEDDING and other is not None and other.shape[1] == weight.shape[1]:
            how = _take_classes(weight, other, source.class_names, class_names)
            if how == "kept":
                kept.append(key)
            else:
                resized.append(f"{key}: {how}")
        elif other is None:
            new.append(f"{key}: the source has none")
        elif not same_codes and key.startswith(CODE_WEIGHTS):
            new.append(f"{key}: the source's is for another tokenizer's codes")
        elif other.shape != weight.shape:
            new.append(f"{key}: {list(weight.shape)}, and the source's is {list(other.shape)}")
        else:
            weight.copy_(other)
            kept.append(key)
    if not any(key.startswith("backbone.blocks.") for key in kept):
        raise InputError(
            f"no block of {name} fits this network: the shapes differ; give the network the same network.width "
            "and network.mlp_ratio"
        )
    return WarmStart(name, fingerprint(source.transformer), tuple(kept), tuple(resized), tuple(new))


def _take_classes(weight: Tensor, other: Tensor, source_names: Sequence[str], names: Sequence[str]) -> str:
    """Fill label embeddings ``[classes + 1, width]`` from the source's, and describe how."""
    source_names, names = list(source_names), list(names)
    if source_names == names:
        weight.copy_(other)
        return "kept"
    weight.copy_(other[-1].expand_as(weight))
    shared = [name for name in names if name in source_names]
    for name in shared:
        weight[names.index(name)] = other[source_names.index(name)]
    return (
        f"{len(other) - 1} classes → {len(weight) - 1}, {len(shared)} with the same name; the others start "
        "from the null class"
    )
