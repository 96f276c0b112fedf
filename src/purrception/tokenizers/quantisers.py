"""Quantisers, which learn a codebook in one of four ways.

However a quantiser learns, ``codebook`` is a plain table of codes, as a ``VQModel`` stores it, and the code
nearest to a latent in that table is the one that the quantiser itself chooses. A trained tokenizer therefore does
not depend on how it was trained.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, SimVQ, VectorQuantize

from purrception.flow.nearest import nearest_codes
from purrception.tokenizers.settings import TokenizerTrainingConfig, VQConfig
from purrception.utils import distributed
from purrception.utils.devices import full_precision
from purrception.utils.errors import InputError


class Quantised(NamedTuple):
    """Latents replaced by codes."""

    codes: Tensor
    """Float32 ``[B, D, h, w]``; gradients reach the latents."""
    indices: Tensor
    """Long ``[B, h, w]``."""
    loss: Tensor
    """The weighted loss that keeps latents and codes together, a scalar."""


class Quantiser(nn.Module, ABC):
    """Latents ``[B, D, h, w]`` → :class:`Quantised`, in float32 even under autocast."""

    def forward(self, latents: Tensor) -> Quantised:
        """Choose a code for each position; in training mode the codebook learns."""
        with full_precision(latents.device):
            return self.quantise(latents.float())

    @abstractmethod
    def quantise(self, latents: Tensor) -> Quantised:
        """:meth:`forward` for float32 latents."""

    @property
    @abstractmethod
    def codebook(self) -> Tensor:
        """The codes as they are stored, float32 ``[K, D]``, detached."""

    @abstractmethod
    def start_from(self, codebook: Tensor) -> None:
        """Start from an existing codebook ``[K, D]``.

        Raises:
            InputError: this quantiser cannot hold it.
        """


class MovingAverageQuantiser(Quantiser):
    """Codes follow a moving average of their latents (VQ-VAE-2, arXiv 1906.00446); dead codes restart.

    The codebook starts from k-means of the first batch. All processes use the same sums, and restarted codes are
    drawn from the latents of all, so that every process has the same codebook.

    The counts of an existing codebook start from the first batch. A code that does not occur in it starts at e
    times the threshold, and dies only if it is not chosen for as long as the average remembers.

    Args:
        model: K and D.
        config: the decay, threshold, commitment and gradient.
        cosine: whether latents and codes lie on the unit sphere (ViT-VQGAN, arXiv 2110.04627). Among codes of
            length 1 the most aligned one is also the nearest, whatever the length of the latent.
    """

    def __init__(self, model: VQConfig, config: TokenizerTrainingConfig, *, cosine: bool) -> None:
        super().__init__()
        self.cosine = cosine
        self.threshold = config.dead_code_threshold
        self.inner = VectorQuantize(
            dim=model.codebook_dim,
            codebook_size=model.codebook_size,
            decay=config.codebook_decay,
            commitment_weight=config.commitment,
            kmeans_init=True,
            threshold_ema_dead_code=config.dead_code_threshold,
            rotation_trick=config.rotation_trick,
            use_cosine_sim=cosine,
            sync_codebook=distributed.count() > 1,
            accept_image_fmap=True,
        )

    def quantise(self, latents: Tensor) -> Quantised:
        """See :class:`Quantiser`."""
        if self.training:
            state = self.inner._codebook
            even_share = latents[:, 0].numel() * distributed.count() / state.codebook_size
            state.threshold_ema_dead_code = min(self.threshold, even_share / 4)
            if state.initted and not state.cluster_size.any():  # an existing codebook
                self._count(latents)
        codes, indices, loss = self.inner(latents)
        return Quantised(codes, indices, loss.sum())

    @property
    def codebook(self) -> Tensor:
        """See :class:`Quantiser`; of length 1 where ``cosine``."""
        codes = self.inner.codebook.detach()
        return F.normalize(codes, dim=1) if self.cosine else codes

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """See :class:`Quantiser`."""
        if self.cosine and not torch.allclose(codebook.norm(dim=1), torch.ones(len(codebook)), atol=1e-3):
            raise InputError("quantiser cosine can start only from codes of length 1; use ema for this tokenizer")
        state = self.inner._codebook
        state.embed.copy_(codebook)
        state.cluster_size.zero_()
        state.initted.fill_(True)

    @torch.no_grad()
    def _count(self, latents: Tensor) -> None:
        """Start the moving averages as if all batches were like this one."""
        state = self.inner._codebook
        indices = nearest_codes(latents, self.codebook)
        counts = indices.flatten().bincount(minlength=state.codebook_size).to(state.cluster_size.dtype)
        state.all_reduce_fn(counts)
        state.cluster_size.copy_(counts.clamp(min=max(math.e * state.threshold_ema_dead_code, 1e-3)))
        state.embed_avg.copy_(state.embed * state.cluster_size[..., None])


class SimVQQuantiser(Quantiser):
    """A frozen random codebook under a learned linear map, which moves all codes together (arXiv 2411.02038)."""

    def __init__(self, model: VQConfig, config: TokenizerTrainingConfig) -> None:
        super().__init__()
        self.inner = SimVQ(
            dim=model.codebook_dim,
            codebook_size=model.codebook_size,
            channel_first=True,
            rotation_trick=config.rotation_trick,
            input_to_quantize_commit_loss_weight=config.commitment,
        )

    def quantise(self, latents: Tensor) -> Quantised:
        """See :class:`Quantiser`."""
        return Quantised(*self.inner(latents))

    @property
    def codebook(self) -> Tensor:
        """See :class:`Quantiser`: the frozen codes, mapped."""
        return self.inner.codebook.detach()

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """See :class:`Quantiser`: the codes are frozen, and the map starts as the identity."""
        self.inner.frozen_codebook.copy_(codebook)
        nn.init.eye_(self.inner.code_transform.weight)


class FSQQuantiser(Quantiser):
    """Each dimension is rounded to a few values (finite scalar quantisation, arXiv 2309.15505).

    The paper bounds latents by a tanh. Here they are clamped: rounding then finds the nearest code, which it would
    not after a tanh, and a commitment loss draws back latents beyond the outermost values.
    """

    table: Tensor
    scale: Tensor

    def __init__(self, model: VQConfig, config: TokenizerTrainingConfig) -> None:
        super().__init__()
        self.commitment = config.commitment
        self.inner = FSQ(list(config.fsq_levels), bound_hard_clamp=True)
        levels = torch.tensor(config.fsq_levels)
        # The library widens the range by 1e-3 before rounding, which would shift the borders between codes.
        self.register_buffer("scale", (levels // 2 / ((levels - 1) * (1 + 1e-3) / 2)).view(1, -1, 1, 1))
        self.register_buffer("table", self.inner.indices_to_codes(torch.arange(model.codebook_size)))

    def quantise(self, latents: Tensor) -> Quantised:
        """See :class:`Quantiser`."""
        codes, indices = self.inner(latents * self.scale)
        return Quantised(codes, indices.long(), self.commitment * F.mse_loss(latents, codes.detach()))

    @property
    def codebook(self) -> Tensor:
        """See :class:`Quantiser`: all combinations of values, which training never changes."""
        return self.table.detach().float()

    def start_from(self, codebook: Tensor) -> None:
        """See :class:`Quantiser`: only from the same levels."""
        if not torch.equal(codebook, self.codebook):
            raise InputError("quantiser fsq can start only from a tokenizer of the same fsq_levels; use ema here")


class FrozenQuantiser(Quantiser):
    """The nearest code of a fixed table, without a loss or gradient for the latents."""

    table: Tensor

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", codebook.clone())

    def quantise(self, latents: Tensor) -> Quantised:
        """See :class:`Quantiser`."""
        indices = nearest_codes(latents.detach(), self.table)
        codes = F.embedding(indices, self.table).permute(0, 3, 1, 2)
        return Quantised(codes, indices, latents.new_zeros(()))

    @property
    def codebook(self) -> Tensor:
        """See :class:`Quantiser`."""
        return self.table

    def start_from(self, codebook: Tensor) -> None:
        """See :class:`Quantiser`."""
        self.table.copy_(codebook)


QUANTISERS: dict[str, Callable[[VQConfig, TokenizerTrainingConfig], Quantiser]] = {
    "ema": lambda model, config: MovingAverageQuantiser(model, config, cosine=False),
    "cosine": lambda model, config: MovingAverageQuantiser(model, config, cosine=True),
    "simvq": SimVQQuantiser,
    "fsq": FSQQuantiser,
}
