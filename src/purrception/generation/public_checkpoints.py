"""Checkpoints of the paper's public implementation (razvanmatisan/purrception) → a pipeline.

Its network is DiT (Peebles & Xie, arXiv 2212.09748) with timm's attention and MLP, and computes what ours does:
the same modulation, attention, GELU and order of a patch's sites. What differs is stated in the configuration of
the converted network: t enters its embedding unscaled, positions are stored (in its own order of channels, and
rounded by bfloat16 training), and the masked objective has a learned vector per code. Its latents are not
standardised, so that the codebook is the tokenizer's own. The settings of its sampler travel with the pipeline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from purrception.flow.settings import public_sampling
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.scheduler import PurrceptionScheduler
from purrception.models import DIT_SIZES, PurrceptionTransformer
from purrception.storage import read_json, reading
from purrception.storage.foreign_weights import account_for, read_weights, renamed, tensors_in
from purrception.tokenizers import VQTokenizer
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import note

SETTINGS_FILE = "hparams.json"
_SOURCE_NAMES = (
    (r"backbone\.patch\.", "x_embedder.proj."),
    (r"backbone\.positions$", "pos_embed"),
    (r"backbone\.time\.input\.", "t_embedder.mlp.0."),
    (r"backbone\.time\.output\.", "t_embedder.mlp.2."),
    (r"backbone\.label\.", "y_embedder.embedding_table."),
    (r"backbone\.final_modulation\.", "final_layer.adaLN_modulation.1."),
    (r"backbone\.(blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"backbone\.(blocks\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
    (r"backbone\.(blocks\.\d+)\.modulation\.", r"\1.adaLN_modulation.1."),
    (r"backbone\.(blocks\.\d+)\.attn\.", r"\1.attn."),
    (r"head\.linear\.", "final_layer.linear."),
    (r"tokens\.", "x_pre_embedder."),
)


@dataclass(frozen=True)
class _Backbone:
    """The part of :data:`SETTINGS_FILE` about the network that is read."""

    num_heads: Annotated[int, Field(ge=1, le=2**12)]


@dataclass(frozen=True)
class _Settings:
    """The part of :data:`SETTINGS_FILE` that is read."""

    model_type: str
    backbone_hparams: _Backbone


@dataclass(frozen=True)
class Sizes:
    """The sizes of a network, from the shapes in its checkpoint."""

    side: int
    """Sites along one side of the grid, which is always square."""
    channels: int
    depth: int
    width: int
    patch: int
    mlp_ratio: float
    num_classes: int
    outputs: int
    """Outputs per site."""
    masked: bool
    """Whether its input is a masked grid of codes."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], path: Path) -> Sizes:
        """Read the sizes off the shapes.

        Raises:
            InputError: the tensors are not those of such a network.
        """
        try:
            positions, patch = tensors["pos_embed"].shape[1], tensors["x_embedder.proj.weight"].shape
            hidden, width = tensors["blocks.0.mlp.fc1.weight"].shape
            outputs = tensors["final_layer.linear.weight"].shape[0]
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(f"{path} holds no network of the public implementation: it has no {error}") from error
        labels = tensors.get("y_embedder.embedding_table.weight")
        return cls(
            side=math.isqrt(positions) * patch[-1],
            channels=patch[1],
            depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
            width=width,
            patch=patch[-1],
            mlp_ratio=hidden / width,
            num_classes=0 if labels is None else len(labels) - 1,
            outputs=outputs // patch[-1] ** 2,
            masked="x_pre_embedder.weight" in tensors,
        )


def convert_public_checkpoint(
    path: Path | str, tokenizer: VQTokenizer, objective: str = "", heads: int = 0, ema: bool = True
) -> PurrceptionPipeline:
    """Convert a checkpoint to a pipeline whose network gives the same logits.

    Args:
        path: a ``.pth`` file. The public implementation writes ``hparams.json`` beside it, which is read as well.
        tokenizer: the tokenizer that the network was trained with.
        objective: the objective it was trained with; if empty, taken from ``hparams.json`` or from the shapes.
        heads: number of attention heads; if 0, taken from ``hparams.json`` or from the published sizes.
        ema: use the moving average of the weights where there is one, as the public sampler does.

    Raises:
        InputError: the file cannot be read, a tensor is missing or left over, or an argument does not fit.
    """
    path = Path(path)
    with reading("a checkpoint of the public implementation", path):
        tensors = _weights(read_weights(path), ema, path)
        sizes = Sizes.of(tensors, path)
        stated_objective, stated_heads = _settings(path)
        objective = _objective(objective or stated_objective, sizes, tokenizer, path)
        network = _network(sizes, objective, heads or stated_heads or _published_heads(sizes), tokenizer)
        _load(network, tensors, sizes, path)
    network.set_codebook(tokenizer.codebook)
    return PurrceptionPipeline(
        transformer=network.eval(),
        vqvae=tokenizer.vq,
        objective=objective,
        tokenizer_hash=tokenizer.fingerprint,
        scheduler=PurrceptionScheduler.of(public_sampling(objective)),
    )


def _network(sizes: Sizes, objective: str, heads: int, tokenizer: VQTokenizer) -> PurrceptionTransformer:
    size, dim = tokenizer.codebook.shape
    return PurrceptionTransformer(
        grid=(sizes.side, sizes.side),
        codebook_size=size,
        codebook_dim=dim,
        num_classes=sizes.num_classes,
        depth=sizes.depth,
        width=sizes.width,
        heads=heads,
        patch_size=sizes.patch,
        mlp_ratio=sizes.mlp_ratio,
        time_scale=1.0,
        head_kind="regression" if objective.startswith("cfm") else "linear",
        stored_positions=True,
        token_embedding=sizes.masked,
    )


def _weights(content: Any, ema: bool, path: Path) -> dict[str, Tensor]:
    """The network's tensors by name. The moving average of torch_ema is a list in the order of the names."""
    tensors = tensors_in(content, ("backbone_state_dict",), path)
    average = content.get("ema_state_dict")
    if not isinstance(average, Mapping):
        return tensors
    used = "the average is used" if ema else "the last weights are used"
    note(f"{path.name} holds a moving average beside the last weights: {used}")
    if not ema:
        return tensors
    shadows = average.get("shadow_params")
    names = list(tensors)
    if isinstance(shadows, list) and len(shadows) == len(names) - 1:
        names.remove("pos_embed")  # older versions leave out what is not trained
    shapes = [tensors[name].shape for name in names]
    if not isinstance(shadows, list) or [getattr(shadow, "shape", None) for shadow in shadows] != shapes:
        raise InputError(f"the moving average in {path} does not fit its weights: take these, with --ema False")
    return tensors | dict(zip(names, shadows, strict=True))


def _settings(path: Path) -> tuple[str, int]:
    """Objective and number of attention heads from the settings beside the checkpoint; empty and 0 without any."""
    file = path.parent / SETTINGS_FILE
    if not file.is_file():
        return "", 0
    remedy = "move it away, and give --objective and --heads"
    settings: _Settings = read_json(file, _Settings, "the settings of the public implementation", remedy)
    return settings.model_type, settings.backbone_hparams.num_heads


def _objective(name: str, sizes: Sizes, tokenizer: VQTokenizer, path: Path) -> str:
    """The objective ``name`` or, if empty, the one that fits the inputs and outputs per site."""
    size, dim = tokenizer.codebook.shape
    expected = {
        "purrception": (size, dim),
        "cfm": (dim, dim),
        "cfm-endpoint": (dim, dim),
        "dfm": (size + 1, sizes.width),
    }
    if name and name not in expected:
        raise unknown_name("objective", name, expected)
    fitting = [key for key, numbers in expected.items() if numbers == (sizes.outputs, sizes.channels)]
    if not fitting:
        raise InputError(
            f"{path} takes {sizes.channels} channels and gives {sizes.outputs} numbers per site; the tokenizer "
            f"has {size} codes of {dim} dimensions: give the tokenizer that it was trained with"
        )
    if name and name not in fitting:
        raise InputError(f"{path} is of {' or '.join(fitting)} by its shapes; given the objective {name!r}")
    if not name and len(fitting) > 1:
        raise InputError(f"{path} is of {' or '.join(fitting)}, which look alike: name one with --objective")
    return name or fitting[0]


def _published_heads(sizes: Sizes) -> int:
    for depth, width, heads in DIT_SIZES.values():
        if (depth, width) == (sizes.depth, sizes.width):
            return heads
    raise InputError(
        f"depth {sizes.depth} and width {sizes.width} are no published size: give its attention heads with --heads"
    )


def _load(network: PurrceptionTransformer, tensors: Mapping[str, Tensor], sizes: Sizes, path: Path) -> None:
    """Load every tensor into the network."""
    state = network.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items() if name != "head.codebook"}
    tensors = dict(tensors)
    patches = sizes.side // sizes.patch
    if tensors["pos_embed"].shape == (1, patches**2, sizes.width):
        tensors["pos_embed"] = tensors["pos_embed"].reshape(patches, patches, sizes.width)
    if sizes.masked:  # the mask is never predicted, so its logit is dropped
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            rows = tensors[name].unflatten(0, (sizes.patch**2, sizes.outputs))[:, :-1]
            tensors[name] = rows.flatten(0, 1)
    names = {name: _source_name(name) for name in shapes}
    problem, _ = account_for(tensors, names, shapes)
    if problem:
        raise InputError(f"{path} is not a network of the public implementation. {problem}")
    network.load_state_dict(state | renamed(tensors, names, shapes, path))


def _source_name(target: str) -> str:
    for pattern, source in _SOURCE_NAMES:
        if re.match(pattern, target):
            return re.sub(pattern, source, target)
    raise AssertionError(f"no source for {target}")
