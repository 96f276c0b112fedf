"""The vocabulary head: features per token → a categorical posterior over the codebook per site."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from purrception.flow import Posterior, SiteLosses, posterior_from_logits


class LinearHead(nn.Module):
    """The paper's head: one linear map from a token's features to K logits for each of its p² sites.

    It starts at zero, so that the first posterior is uniform and the first cross-entropy ln K.

    Args:
        width: channels of the features.
        codebook: standardised codes, float32 ``[K, D]``; kept as a buffer, so that the codes that are
            averaged are the codes of the data.
        patch_size: p, sites per token along one side.
    """

    codebook: Tensor

    def __init__(self, width: int, codebook: Tensor, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.register_buffer("codebook", codebook.float())
        self.linear = nn.Linear(width, patch_size**2 * len(codebook))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def logits(self, features: Tensor) -> Tensor:
        """Features ``[B, h/p, w/p, width]`` → logits ``[B, h, w, K]``, in the features' precision."""
        p = self.patch_size
        batch, height, width, _ = features.shape
        flat = self.linear(features.to(self.linear.weight.dtype))
        patches = flat.view(batch, height, width, p, p, len(self.codebook))
        return patches.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * p, width * p, -1)

    def nll(self, features: Tensor, targets: Tensor) -> SiteLosses:
        """Negative log-likelihood of ``targets``, long ``[B, h, w]``, and its companions, in float32."""
        logits = self.logits(features).float()
        logsumexp = logits.logsumexp(dim=-1)
        chosen = logits.gather(-1, targets[..., None])[..., 0]
        correct = (logits.detach().argmax(dim=-1) == targets).float()
        return SiteLosses(nll=logsumexp - chosen, logsumexp=logsumexp, correct=correct)

    def posterior(self, features: Tensor, temperature: float = 1.0) -> Posterior:
        """Statistics of softmax(logits/τ) per site, in float32."""
        return posterior_from_logits(self.logits(features), self.codebook, temperature)

    def embed(self, indices: Tensor) -> Tensor:
        """Codes, long ``[B, h, w]`` → standardised embeddings, float32 ``[B, D, h, w]``."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2).contiguous()
