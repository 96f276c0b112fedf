"""What the Fréchet distance of `photos` sees: real training crops, spoiled in known ways, against the test crops.

    python benchmarks/photo_features.py

Prints each distance, and its share of the features' total variance on the test crops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.data import load_split
from purrception.evaluation import FeatureStatistics, frechet_distance
from purrception.evaluation.extractors import extract_in_groups
from purrception.evaluation.extractors.classifier import ClassifierConfig, ClassifierExtractor, train_classifier
from purrception.recipes import get_recipe

COUNT = 1824
FLAT = 0.05
"""Deviation of the pixels under which a crop counts as flat."""


def averaged(images: Tensor, side: int) -> Tensor:
    """Blocks of ``side`` pixels averaged, and interpolated back."""
    return F.interpolate(F.avg_pool2d(images, side), scale_factor=side, mode="bilinear")


def shuffled(images: Tensor, side: int) -> Tensor:
    """Blocks of ``side`` pixels in another order in each image."""
    blocks = F.unfold(images, side, stride=side)
    order = torch.rand(len(images), blocks.shape[-1]).argsort(dim=1)
    return F.fold(blocks.gather(2, order[:, None].expand_as(blocks)), images.shape[-1], side, stride=side)


def with_more(images: Tensor, chosen: Tensor, share: float) -> Tensor:
    """``share`` of the images replaced, at random, by some of the ``chosen``."""
    count = int(share * len(images))
    extra = images[chosen][torch.randint(int(chosen.sum()), (count,))]
    return torch.cat([images[torch.randperm(len(images))[count:]], extra])


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    data = get_recipe("photos").data
    train, labels = load_split(data, "train")
    test, _ = load_split(data, "test")
    extractor = ClassifierExtractor(train_classifier(train, labels, 2, ClassifierConfig()))

    def statistics(images: Tensor) -> FeatureStatistics:
        return FeatureStatistics.of(extract_in_groups(extractor, images).features)

    real = statistics(test)
    crops = train[torch.randperm(len(train))[:COUNT]]
    halves = test[torch.randperm(len(test))].chunk(2)
    flat = crops.std(dim=(1, 2, 3)) < FLAT
    print(f"total variance {float(real.covariance.trace()):.0f}; flat crops {float(flat.float().mean()):.1%}")
    cases = {
        "two halves of the test crops": None,
        "training crops": crops,
        "averaged over 2×2 pixels": averaged(crops, 2),
        "averaged over 4×4 pixels": averaged(crops, 4),
        "noise of deviation 0.1": (crops + 0.1 * torch.randn_like(crops)).clamp(-1, 1),
        "colours halved": 0.5 * crops + 0.5 * crops.mean(dim=1, keepdim=True),
        "blocks of 8×8 pixels shuffled": shuffled(crops, 8),
        "blocks of 4×4 pixels shuffled": shuffled(crops, 4),
        "5 % replaced by flat crops": with_more(crops, flat, 0.05),
        "10 % replaced by flat crops": with_more(crops, flat, 0.1),
        "20 % replaced by flat crops": with_more(crops, flat, 0.2),
    }
    print("| images | Fréchet distance | share of the variance |\n|---|---|---|")
    for name, images in cases.items():
        if images is None:
            distance = frechet_distance(*map(statistics, halves))
        else:
            distance = frechet_distance(statistics(images), real)
        print(f"| {name} | {distance:.2f} | {distance / float(real.covariance.trace()):.4f} |")


if __name__ == "__main__":
    main()
