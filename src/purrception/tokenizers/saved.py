"""``config.json`` of a saved tokenizer, checked before a network is built from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from purrception.storage import read_json
from purrception.storage.names import CONFIG_FILE
from purrception.utils.errors import InputError
from purrception.utils.progress import note

WEIGHTS_PREFIX, ORIGIN_FILE = "diffusion_pytorch_model", "origin.json"
"""How the names of a tokenizer's weight files begin, and where it comes from."""
SIGNED, UNIT = (-1.0, 1.0), (0.0, 1.0)
"""Ranges of pixels: the usual one, and aMUSEd's."""

Width = Annotated[int, Field(ge=1, le=2**14)]
Down = Literal[
    "DownEncoderBlock2D",
    "AttnDownEncoderBlock2D",
    "UnnormalisedDownEncoderBlock2D",
    "UnnormalisedAttnDownEncoderBlock2D",
]
Up = Literal[
    "UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UnnormalisedUpDecoderBlock2D", "UnnormalisedAttnUpDecoderBlock2D"
]


@dataclass(frozen=True)
class SavedVQ:
    """The settings of a ``VQModel``, within bounds; the defaults are those of diffusers."""

    in_channels: Annotated[int, Field(ge=1, le=64)] = 3
    out_channels: Annotated[int, Field(ge=1, le=64)] = 3
    down_block_types: tuple[Down, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Up, ...] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (64,)
    layers_per_block: Annotated[int, Field(ge=1, le=64)] = 1
    act_fn: str = "silu"
    latent_channels: Width = 3
    sample_size: int | list[int] = 32
    num_vq_embeddings: Annotated[int, Field(ge=1, le=2**24)] = 256
    norm_num_groups: Width = 32
    vq_embed_dim: Width | None = None
    scaling_factor: Annotated[float, Field(allow_inf_nan=False)] = 0.18215
    norm_type: Literal["group", "spatial"] = "group"
    mid_block_add_attention: bool = True
    lookup_from_codebook: bool = False
    force_upcast: bool = False
    input_range: tuple[float, float] | None = None
    """The values of black and white for :class:`RescaledVQModel`."""

    @classmethod
    def read(cls, folder: Path) -> tuple[str, Self]:
        """The name of the class and the settings that a folder gives; unknown keys are ignored.

        Raises:
            InputError: it is not the configuration of a tokenizer.
        """
        file, what = folder / CONFIG_FILE, "the configuration of a tokenizer"
        values: dict[str, Any] = read_json(file, dict[str, Any], what)
        saved: Self = read_json(file, cls, what)
        return str(values.get("_class_name"))[:100], saved

    def pixels(self, folder: Path, given: tuple[float, float] | None) -> tuple[float, float]:
        """The network's values for black and white; see :meth:`VQTokenizer.load`."""
        usual = UNIT if self.lookup_from_codebook else SIGNED  # which only aMUSEd's tokenizers have
        low, high = given or self.input_range or usual
        if not -math.inf < low < high < math.inf:
            raise InputError(f"a range of pixels goes from black to a larger white; given {low} {high}")
        if (low, high) != SIGNED and self.input_range is None:
            note(f"{folder}: its network takes pixels in {[float(low), float(high)]}")
        return float(low), float(high)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file in a folder belongs to the tokenizer."""
    return name in (CONFIG_FILE, ORIGIN_FILE) or name.startswith(WEIGHTS_PREFIX)
