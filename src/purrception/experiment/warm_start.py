"""Training that starts from another pipeline's weights, and an account of what could be taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.generation.pipeline import PurrceptionPipeline
from purrception.models import PurrceptionTransformer
from purrception.tokenizers import fingerprint
from purrception.utils.errors import InputError

LABELS = "backbone.label.weight"
CODEBOOK = "head.codebook"
OF_THE_CODES = ("backbone.patch.", "backbone.positions", "head.", "tokens.")
"""Where weights speak of codes and of where they lie; under another tokenizer they would say something else."""


@dataclass(frozen=True)
class WarmStart:
    """What a network took from another; names are its weights'."""

    source: str
    """Where the other network was."""
    source_hash: str
    """SHA-256 of its weights."""
    kept: tuple[str, ...]
    """As they were."""
    resized: tuple[str, ...]
    """Cut or grown, and how."""
    new: tuple[str, ...]
    """Freshly initialised, and why."""

    def markdown(self) -> str:
        """The account as text."""
        lines = [f"# Started from {self.source}", "", f"Its weights: SHA-256 {self.source_hash}.", ""]
        for title, names in (("Kept", self.kept), ("Resized", self.resized), ("New", self.new)):
            lines += [f"## {title}: {len(names)} tensors", "", *[f"- {name}" for name in names], ""]
        return "\n".join(lines)

    def __str__(self) -> str:
        """In one line."""
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
    """Take what fits of another pipeline's weights.

    A class keeps its row of the label embedding by its name, and the null class keeps its own; classes that the
    source does not know begin at its null class, which stands for any. Weights that speak of codes are taken only
    where the tokenizer is the same.

    Args:
        network: freshly initialised; changed in place.
        source: where weights come from.
        name: of the source, for the account.
        tokenizer_hash: of the tokenizer of ``network``.
        class_names: of ``network``, by label.

    Raises:
        InputError: nothing fits, as for a network of another width.
    """
    theirs, ours = source.transformer.state_dict(), network.state_dict()
    same_codes = source.tokenizer.fingerprint == tokenizer_hash
    kept: list[str] = []
    resized: list[str] = []
    new: list[str] = []
    for key, weight in ours.items():
        if key == CODEBOOK:
            continue
        other = theirs.get(key)
        if key == LABELS and other is not None and other.shape[1] == weight.shape[1]:
            how = _take_classes(weight, other, source.class_names, class_names)
            if how == "kept":
                kept.append(key)
            else:
                resized.append(f"{key}: {how}")
        elif other is None:
            new.append(f"{key}: the source has none")
        elif not same_codes and key.startswith(OF_THE_CODES):
            new.append(f"{key}: the source's is for another tokenizer's codes")
        elif other.shape != weight.shape:
            new.append(f"{key}: {list(weight.shape)}, and the source's is {list(other.shape)}")
        else:
            weight.copy_(other)
            kept.append(key)
    if not any(key.startswith("backbone.blocks.") for key in kept):
        raise InputError(
            f"nothing of {name} fits this network: its blocks have other shapes; give it the same network.width "
            "and network.mlp_ratio"
        )
    return WarmStart(name, fingerprint(source.transformer), tuple(kept), tuple(resized), tuple(new))


def _take_classes(weight: Tensor, other: Tensor, their_names: Sequence[str], our_names: Sequence[str]) -> str:
    """Fill label embeddings ``[classes + 1, width]``; how, in words."""
    if list(their_names) == list(our_names):
        weight.copy_(other)
        return "kept"
    weight.copy_(other[-1].expand_as(weight))
    shared = [class_name for class_name in our_names if class_name in their_names]
    for class_name in shared:
        weight[list(our_names).index(class_name)] = other[list(their_names).index(class_name)]
    return (
        f"{len(other) - 1} classes → {len(weight) - 1}, {len(shared)} of them by the same name; the others begin "
        "at the null class"
    )
