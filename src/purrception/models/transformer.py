"""Backbone and head as one diffusers model: saved, loaded and shared like any other."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from pydantic import TypeAdapter
from torch import Tensor, nn
from typing_extensions import TypedDict

from purrception.models.dit import DiT
from purrception.models.head import CategoricalHead, Head, build_head
from purrception.models.settings import MLP, DiTConfig, HeadConfig, Kernel, Norm, Positions
from purrception.storage import plain_reason, read_json, reading
from purrception.storage.finite import check_codes, require_finite
from purrception.storage.model_folder import check_size
from purrception.utils.errors import InputError, unknown_name

LARGEST = {
    "grid": 2**12,
    "codebook_size": 2**24,
    "codebook_dim": 2**14,
    "num_classes": 2**17,
    "input_channels": 2**16,
}
"""Sizes beyond which a saved configuration must be damaged; DiTConfig and HeadConfig check the others."""


class ExactCodes(ModelMixin):
    """A model that is cast once it is loaded, so that its codes stay as they are saved; diffusers rounds them."""

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Load as diffusers does; ``torch_dtype`` is the precision of all but the codes."""
        precision = options.pop("torch_dtype", None)
        loaded = super().from_pretrained(*arguments, **options)
        if precision is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            torch.nn.Module.to(model, precision)  # diffusers' own warns in vain
        return loaded


class PurrceptionTransformer(ExactCodes, ConfigMixin, PeftAdapterMixin):
    """A DiT backbone and a head over a standardised codebook.

    Calling it gives features; ``head`` turns them into losses and a posterior, or into vectors. It knows nothing
    of objectives. The codebook is part of the weights: set it with :meth:`set_codebook` before training.

    Args:
        grid: (h, w), sites of the latent grid.
        codebook_size: K.
        codebook_dim: D.
        num_classes: classes without the null class, whose label is ``num_classes``; 0: unconditional.
        depth: number of blocks; see :class:`DiTConfig` for this and what follows.
        width: channels of a patch.
        heads: number of attention heads.
        patch_size: sites of a patch along one side.
        mlp_ratio: hidden width of an MLP, as a multiple of the width.
        time_scale: factor by which t is multiplied before its sinusoidal embedding.
        input_channels: channels of the state z; by default D.
        head_kind: which head; see :class:`HeadConfig` for this and what follows.
        head_rank: channels of a site's features in the low-rank heads.
        evidence: whether the objective gives the head the evidence in z_t.
        stored_positions: see :class:`DiT`; for converted networks.
        token_embedding: whether a masked grid enters as learned vectors of ``width``, one for each code and one
            for the mask, rather than as standardised embeddings.
        norm: kind of normalisation; see :class:`DiTConfig` for this and what follows.
        mlp: kind of a block's MLP.
        positions: how patches know their place.
        qk_norm: whether queries and keys are normalised.

    Raises:
        InputError: sizes that do not fit each other, or a head that does not exist.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    half_backbone = False
    """Whether calling it runs under bfloat16 autocast whatever the caller's precision; the head does so only
    within :meth:`reduced_precision`."""
    head: Head

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        grid: tuple[int, int],
        codebook_size: int,
        codebook_dim: int,
        num_classes: int,
        depth: int = 4,
        width: int = 128,
        heads: int = 4,
        patch_size: int = 2,
        mlp_ratio: float = 4.0,
        time_scale: float = 1000.0,
        input_channels: int | None = None,
        head_kind: str = "linear",
        head_rank: int = 64,
        evidence: bool = False,
        stored_positions: bool = False,
        token_embedding: bool = False,
        norm: Norm = "layer",
        mlp: MLP = "gelu",
        positions: Positions = "sinusoidal",
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = DiTConfig(**{field.name: self.config[field.name] for field in fields(DiTConfig)})
        self.grid = (int(grid[0]), int(grid[1]))
        self.num_classes = num_classes
        self.input_channels = width if token_embedding else input_channels or codebook_dim
        self.backbone = DiT(sizes, self.grid, self.input_channels, num_classes, stored_positions)
        self.tokens = nn.Embedding(codebook_size + 1, width) if token_embedding else None
        if self.tokens is not None:
            nn.init.normal_(self.tokens.weight, std=0.02)
        self.evidence = evidence
        codebook = torch.zeros(codebook_size, codebook_dim)
        self.head = build_head(HeadConfig(head_kind, head_rank, evidence), width, codebook, patch_size)

    @classmethod
    def from_settings(
        cls,
        network: DiTConfig,
        head: HeadConfig,
        **sizes: Any,
    ) -> Self:
        """A new network with these settings; ``sizes`` are the constructor's other arguments, by name."""
        sizes |= {"head_kind": head.kind, "head_rank": head.rank, "evidence": head.evidence}
        return cls(**asdict(network), **sizes)

    def set_codebook(self, codebook: Tensor) -> None:
        """Set the standardised codes, ``[K, D]``.

        Raises:
            InputError: their number or dimension is not what the network is made for.
        """
        if codebook.shape != self.codebook.shape:
            raise InputError(
                f"the network is made for {self.codebook.shape[0]} codes of {self.codebook.shape[1]} dimensions; "
                f"the tokenizer has {codebook.shape[0]} of {codebook.shape[1]}: they do not belong together"
            )
        self.head.codebook.copy_(codebook)

    def compile_parts(self) -> None:
        """Compile separately the blocks of the backbone and what the head does with a chunk of logits."""
        self.backbone.compile_blocks()
        if isinstance(self.head, CategoricalHead):
            self.head.compile_chunks()

    def reduced_precision(self) -> contextlib.AbstractContextManager[object]:
        """A context for sampling: on a GPU the head of a half backbone multiplies in bfloat16 too, as in training.

        What is computed from the logits is float32 in any case. A CPU would gain nothing from it.
        """
        if not self.half_backbone or self.device.type != "cuda":
            return contextlib.nullcontext()  # the caller's own precision
        # Weights are cast again in each call: a CUDA graph must not use copies that no longer exist at its replay.
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)

    def use_kernel(self, kernel: Kernel) -> None:
        """Choose what computes losses and posteriors, if the head has any; call it on the final device.

        Raises:
            InputError: see :meth:`CategoricalHead.use_kernel`.
        """
        if isinstance(self.head, CategoricalHead):
            self.head.use_kernel(kernel)

    @property
    def codebook(self) -> Tensor:
        """The standardised codes, float32 ``[K, D]``."""
        return self.head.codebook

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings z_1, float32 ``[B, D, h, w]``."""
        return self.head.embed(indices)

    def embed_masked(self, indices: Tensor, masked: Tensor) -> Tensor:
        """A partly masked grid as the network's input.

        Args:
            indices: codes, long ``[B, h, w]``.
            masked: bool ``[B, h, w]``.

        Returns:
            ``[B, D + 1, h, w]``: the standardised embedding of a code that is shown, and zeros with a 1 in the
            last channel for a mask. With ``token_embedding``, ``[B, width, h, w]``.
        """
        if self.tokens is not None:
            return self.tokens(indices.masked_fill(masked, len(self.codebook))).permute(0, 3, 1, 2)
        hidden = masked[:, None].float()
        return torch.cat([self.embed(indices) * (1 - hidden), hidden], dim=1)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """z_t ``[B, D, h, w]``, t ``[B]``, labels ``[B]`` → features ``[B, h/p, w/p, width]``."""
        if not self.half_backbone:
            return self.backbone(z, t, labels)
        with torch.autocast(z.device.type, torch.bfloat16):
            return self.backbone(z, t, labels)

    def load_lora_adapter(
        self, source: Path | str | dict[str, Tensor], prefix: str | None = None, **options: Any
    ) -> None:
        """Add an adapter that ``save_lora_adapter`` wrote, with peft; only safetensors on this machine are read.

        Args:
            source: the folder or file, or its tensors by name.
            prefix: what the names of its tensors begin with, such as ``transformer`` in files of some pipelines.
            options: those of diffusers' ``PeftAdapterMixin``.

        Raises:
            InputError: there is no such folder or file.
        """
        if not isinstance(source, dict) and not Path(source).exists():
            raise InputError(f"no adapter at {source}: give the folder that save_lora_adapter wrote")
        super().load_lora_adapter(source, prefix=prefix, use_safetensors=True, **options)

    @classmethod
    def from_pretrained(cls, folder: Path | str, **options: Any) -> Self:
        """Load weights strictly: every tensor must be there, and no other.

        Raises:
            InputError: the weights are damaged, not finite, or do not fit the configuration next to them.
        """
        options |= {"output_loading_info": True, "low_cpu_mem_usage": False, "use_safetensors": True}
        try:
            sizes = _read_sizes(Path(folder, options.get("subfolder") or "") / cls.config_name)
            check_size(Path(folder, options.get("subfolder") or ""), lambda: cls(**sizes))
            model, info = super().from_pretrained(folder, **options)
        except Exception as error:  # diffusers and safetensors raise many kinds for a damaged file
            raise InputError(f"cannot load the transformer in {folder}: {plain_reason(error)}") from error
        problems = {kind: names for kind, names in info.items() if names}
        if problems:
            raise InputError(f"the weights in {folder} do not fit their configuration: {str(problems)[:300]}")
        require_finite(model.state_dict(), f"the transformer in {folder}")
        check_codes(model.codebook, f"the transformer in {folder}")
        return model


def _read_sizes(config: Path) -> dict[str, Any]:
    """The arguments in a saved configuration, checked against the constructor's types and against LARGEST."""
    what = "the configuration of a transformer"
    values: dict[str, Any] = read_json(config, dict[str, Any], what)
    hints = get_type_hints(PurrceptionTransformer.__init__)
    hints.pop("return", None)
    sizes = {name: value for name, value in values.items() if not name.startswith("_")}
    for name in sizes:
        if name not in hints:
            raise unknown_name(f"key in {config}:", name, hints)
    schema = TypedDict("schema", hints, total=False)  # type: ignore[misc]
    with reading(what, config):
        TypeAdapter(schema).validate_json(json.dumps(sizes), strict=True)
        for name, most in LARGEST.items():
            given = sizes.get(name)
            for number in given if isinstance(given, list) else [given or 1]:
                if not (0 if name == "num_classes" else 1) <= number <= most:
                    raise ValueError(f"{name} is at most {most}; given {number}")
    return sizes
