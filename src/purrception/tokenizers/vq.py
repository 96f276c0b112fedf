"""VQ tokenizers: networks between images and grids of codebook indices."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import ModelMixin as ModelMixin  # diffusers looks it up beside a class that it loads
from diffusers import VQModel
from torch import Tensor, nn

from purrception.data.transforms import tensor_to_bytes
from purrception.flow.nearest import nearest_codes
from purrception.storage import DIGESTS_FILE, check_digests, plain_reason, write_digests
from purrception.storage.finite import check_codes, require_finite
from purrception.storage.model_folder import check_size, forget_load_path, only_variant
from purrception.storage.names import CONFIG_FILE
from purrception.tokenizers.saved import SIGNED, UNIT, SavedVQ, is_tokenizer_file
from purrception.utils.devices import downloads, upload
from purrception.utils.errors import InputError
from purrception.utils.progress import note

GROUP_PIXELS, LARGEST_GROUP = 2**15, 32
"""The most pixels, and the most images, that are decoded at a time."""


def _with_parameter(base: Callable[..., None], own: Callable[..., None], name: str) -> inspect.Signature:
    """The signature of ``base`` with one of ``own``'s keyword parameters added."""
    signature = inspect.signature(base)
    return signature.replace(parameters=[*signature.parameters.values(), inspect.signature(own).parameters[name]])


class UnnormalisedVQModel(VQModel):
    """A ``VQModel`` without group normalisation, for small images.

    Group normalisation over few channels removes the mean and the contrast of each channel: small images that are
    flat, or of one colour, can then hardly be told apart or reconstructed.

    The configuration names blocks that a plain ``VQModel`` does not have, so that it refuses to load weights with
    which it would give other codes.
    """

    PREFIX = "Unnormalised"

    # diffusers reads the configuration off the signature
    @functools.wraps(VQModel.__init__)  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        blocks = {key: kwargs[key] for key in ("down_block_types", "up_block_types")}
        plain = {key: tuple(name.removeprefix(self.PREFIX) for name in names) for key, names in blocks.items()}
        super().__init__(**kwargs | plain)
        named = {key: [f"{self.PREFIX}{name}" for name in names] for key, names in plain.items()}
        self.register_to_config(**named)
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, nn.Identity())


class RescaledVQModel(VQModel):
    """A ``VQModel`` whose network takes pixels in ``config.input_range``, with images in [−1, 1] as usual.

    A plain ``VQModel`` loads its folder as the original model, which takes pixels in that range.
    """

    def __init__(self, *, input_range: Sequence[float] = UNIT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_to_config(input_range=list(input_range))

    # diffusers reads the configuration off the signature, and warns of what is not in it
    __init__.__signature__ = _with_parameter(VQModel.__init__, __init__, "input_range")  # type: ignore[attr-defined]

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """See ``VQModel``; ``x`` lies in [−1, 1]."""
        low, high = self.config.input_range
        return super().encode(low + (x + 1) * ((high - low) / 2), return_dict)

    def decode(
        self, h: Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape: Any = None
    ) -> Any:
        """See ``VQModel``; images lie in about [−1, 1]."""
        low, high = self.config.input_range
        out = super().decode(h, force_not_quantize, shape=shape)
        out.sample = (out.sample - low) * (2 / (high - low)) - 1
        return out if return_dict else (out.sample, out.commit_loss)


ARCHITECTURES: dict[str, type[VQModel]] = {"group": VQModel, "none": UnnormalisedVQModel}
"""The classes of networks by their normalisation."""
KINDS = {kind.__name__: kind for kind in (*ARCHITECTURES.values(), RescaledVQModel)}
"""The classes of networks by their names in saved configurations."""


class VQTokenizer:
    """Images to grids of codes and back, by a trained ``VQModel`` in evaluation mode and without gradients.

    Raises:
        InputError: a weight is NaN or infinite, or the squared length of a code overflows.
    """

    def __init__(self, vq: VQModel) -> None:
        require_finite(vq.state_dict(), "the tokenizer")
        check_codes(vq.quantize.embedding.weight, "the tokenizer")
        self.vq = vq.eval().requires_grad_(False)

    @property
    def codebook(self) -> Tensor:
        """The codes E, float32 ``[K, D]``."""
        return self.vq.quantize.embedding.weight.detach().float()

    @property
    def downsampling(self) -> int:
        """How many times smaller the grid is than the image, along each side."""
        return int(2 ** (len(self.vq.config.block_out_channels) - 1))

    @property
    def image_channels(self) -> int:
        """The number of channels of the images, 1 or 3."""
        return int(self.vq.config.in_channels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and, unless it is [−1, 1], the range of pixels; hexadecimal."""
        return fingerprint(self.vq, "" if self.input_range == SIGNED else f"pixels {self.input_range}")

    @property
    def input_range(self) -> tuple[float, float]:
        """The network's own values for black and white; images here are always in [−1, 1]."""
        low, high = self.vq.config.get("input_range") or SIGNED
        return float(low), float(high)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [−1, 1] → latents before they become codes, float32 ``[B, D, h, w]``."""
        latents: Tensor = self.vq.encode(images.to(self.vq.device, self.vq.dtype)).latents
        return latents.float()

    def encode(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [−1, 1] → indices of the nearest codes, long ``[B, h, w]``."""
        return nearest_codes(self.latents(images), self.codebook)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices, long ``[B, h, w]`` → images, float32 ``[B, C, H, W]`` in about [−1, 1].

        Each image is exactly the same whatever others are decoded with it.
        """
        return torch.cat(list(self._decode_groups(indices)))

    def decode_images(self, indices: Tensor, *, truncate: bool = False) -> np.ndarray:
        """Indices, long ``[B, h, w]`` → images, uint8 ``[B, H, W, C]``, decoded a few at a time to save memory.

        Levels are rounded or, with ``truncate``, cut off, which darkens images by half a level on average.
        """
        groups = (tensor_to_bytes(images, truncate=truncate) for images in self._decode_groups(indices))
        return np.concatenate([images.numpy() for images in downloads(groups)])

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents ``[B, D, h, w]``, which need not be codes → images, float32 ``[B, C, H, W]``."""
        return torch.cat(list(self._in_groups(latents, lambda group: group.to(self.vq.device, self.vq.dtype))))

    @torch.no_grad()
    def embed(self, indices: Tensor) -> Tensor:
        """Indices, long ``[B, h, w]`` → their codes ``[B, D, h, w]``, which the decoder takes."""
        return self.vq.quantize.embedding(upload(indices, self.vq.device)).permute(0, 3, 1, 2)

    def _decode_groups(self, indices: Tensor) -> Iterator[Tensor]:
        return self._in_groups(indices, self.embed)

    @torch.no_grad()
    def _in_groups(self, grids: Tensor, to_latents: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """Images of a fixed number of grids ``[B, …, h, w]`` at a time; the last group is padded.

        The shape of a batch decides which kernels run, and so how numbers are rounded. With groups of one shape an
        image is the same whatever others are in its group.
        """
        pixels = grids.shape[-2] * grids.shape[-1] * self.downsampling**2
        size = max(1, min(LARGEST_GROUP, GROUP_PIXELS // pixels))
        for group in grids.split(size):
            padded = torch.cat([group, group[-1:].expand(size - len(group), *group.shape[1:])])
            with self.vq.device:  # where diffusers creates a commitment loss; a GPU would wait for one on the CPU
                images = self.vq.decode(to_latents(padded), force_not_quantize=True).sample
            yield images[: len(group)].float()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and safetensors weights in diffusers' layout, and their SHA-256."""
        (folder / DIGESTS_FILE).unlink(missing_ok=True)
        self.vq.save_pretrained(folder, safe_serialization=True)
        forget_load_path(folder / CONFIG_FILE)
        write_digests(folder, mine=is_tokenizer_file)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        input_range: tuple[float, float] | None = None,
        *,
        verify: bool = True,
        variant: str | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a folder that :meth:`save` (or diffusers) wrote.

        Args:
            folder: where ``config.json`` and the weights are.
            input_range: the network's values for black and white; by default those in its configuration, else
                (0, 1) if that has ``lookup_from_codebook``, as aMUSEd's, else (−1, 1).
            verify: whether to compare the files with their SHA-256, where the folder lists them.
            variant: the variant of the weights, part of their files' names; by default the only one there is.
            torch_dtype: the precision of the weights; by default float32.

        Raises:
            InputError: the folder is missing, incomplete or damaged.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise InputError(
                f"no tokenizer at {folder}: expected config.json and safetensors weights, or hub:owner/name for "
                "one of the hub"
            )
        if verify:
            check_digests(folder, is_tokenizer_file, missing=False)
        if variant is None and (variant := only_variant(folder)):
            note(f"{folder} has only weights of the variant {variant}, which are used as they are")
        try:
            name, saved = SavedVQ.read(folder)
            if name not in KINDS:
                raise InputError(f"it is a {name}, expected {' or '.join(KINDS)}")
            pixels = saved.pixels(folder, input_range)
            kind = KINDS[name]
            if kind is not UnnormalisedVQModel:
                kind = VQModel if pixels == SIGNED else RescaledVQModel
            check_size(folder, lambda: kind.from_config(kind.load_config(folder)))
            # diffusers prefers safetensors, and reads the older .bin with weights_only
            vq, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
                variant=variant,
                torch_dtype=torch_dtype or torch.float32,
            )
            if problems := {kind: names for kind, names in info.items() if names}:
                raise InputError(f"the weights do not fit their configuration: {problems}")
            vq.register_to_config(lookup_from_codebook=False)  # decode is given embeddings, never indices
            if kind is RescaledVQModel:
                vq.register_to_config(input_range=list(pixels))
            return cls(vq)
        except Exception as error:  # diffusers and safetensors raise many kinds of errors for a damaged file
            raise InputError(f"cannot load the tokenizer in {folder}: {plain_reason(error)}") from error


def fingerprint(model: nn.Module, use: str = "") -> str:
    """SHA-256 over the names, shapes and float32 values of a model's weights, hexadecimal.

    ``use`` distinguishes models of equal weights that are used differently. The configuration is not part of the
    hash, because a newer diffusers may add to it.
    """
    digest = hashlib.sha256(use.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
