"""The adversarial loss of VQGAN (arXiv 2012.09841): a discriminator of patches, trained with a hinge loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.tokenizers.settings import AdversarialConfig
from purrception.utils import distributed


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches, high for real ones (pix2pix, arXiv 1611.07004).

    Group normalisation takes the place of VQGAN's batch normalisation, so that a score depends on its image alone,
    however a batch is divided among processes.

    Args:
        config: its width and depth.
        channels: the number of channels of the images.
    """

    def __init__(self, config: AdversarialConfig, channels: int) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for depth in range(1, config.layers + 1):
            wider = config.channels * min(2**depth, 8)
            stride = 2 if depth < config.layers else 1
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [−1, 1] → scores ``[B, 1, h, w]``."""
        return self.body(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(x̂))] from scores of any shape: the discriminator's loss."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|∇_L reconstruction| / (|∇_L adversarial| + 1e-4), at most 1e4 (arXiv 2012.09841, eq. 7).

    The gradients are those of the whole batch, over all processes.

    Args:
        reconstruction: the reconstruction loss, a scalar.
        adversarial: the adversarial loss, a scalar.
        last_layer: L, the weight of the decoder's last layer, which both losses depend on.
    """
    losses = (reconstruction, adversarial)
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses]
    distributed.average_(gradients)
    reconstruction_norm, adversarial_norm = (gradient.float().norm() for gradient in gradients)
    return (reconstruction_norm / (adversarial_norm + 1e-4)).clamp(0, 1e4).detach()
