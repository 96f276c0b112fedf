"""How Fréchet distances on `photos` react to training crops that were damaged in known ways, against test crops.

    python benchmarks/photo_features.py
    python benchmarks/photo_features.py runs/photos/tokenizer

Prints the distances in each kind of features, and their share of the features' total variance on the test crops.
Given a tokenizer, also prints the distance of training crops as it reconstructs them, in texture features alone,
which is what a perfect network would reach.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.data import images_to_tensor, load_split
from purrception.evaluation import ClassifierConfig, FeatureStatistics, frechet_distance
from purrception.evaluation.extractors import Extractor, extract_in_groups
from purrception.evaluation.extractors.classifier import ClassifierExtractor, train_classifier
from purrception.evaluation.extractors.random_features import TextureExtractor
from purrception.evaluation.metrics.precision_recall import precision_recall
from purrception.experiment.recipes import get_recipe
from purrception.tokenizers import VQTokenizer

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


def distances(extract: Extractor, test: Tensor, cases: dict[str, tuple[Tensor, Tensor]]) -> dict[str, str]:
    """Of each pair of sets of images: ``distance (share of the variance of the test crops)``."""

    def statistics(images: Tensor) -> FeatureStatistics:
        return FeatureStatistics.of(extract_in_groups(extract, images).features)

    variance = float(statistics(test).covariance.trace())
    found = {}
    for name, pair in cases.items():
        distance = frechet_distance(*map(statistics, pair))
        found[name] = f"{distance:.2f} ({distance / variance:.4f})"
    return found


def judge_tokenizer(folder: str, count: int = 300) -> None:
    """Print how far ``count`` training crops are from the test crops, before and after the tokenizer."""
    torch.manual_seed(0)
    data, tokenizer = get_recipe("photos").data, VQTokenizer.load(folder)
    extract = TextureExtractor(3)
    real = extract_in_groups(extract, load_split(data, "test")[0]).features
    train, _ = load_split(data, "train")
    crops = train[torch.randperm(len(train))[:count]]
    decoded = images_to_tensor(list(tokenizer.decode_images(tokenizer.encode(crops))))
    print("| images | texture | precision | recall |\n|---|---|---|---|")
    for name, images in (("training crops", crops), ("training crops, encoded and decoded", decoded)):
        features = extract_in_groups(extract, images).features
        distance = frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(real))
        near = precision_recall(real, features)
        print(f"| {count} {name} | {distance:.2f} | {near.precision:.2f} | {near.recall:.2f} |")


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    data = get_recipe("photos").data
    train, labels = load_split(data, "train")
    test, _ = load_split(data, "test")
    classifier = train_classifier(train, labels, 2, ClassifierConfig())
    crops = train[torch.randperm(len(train))[:COUNT]]
    halves = [tuple(test[torch.randperm(len(test))].chunk(2)) for _ in range(3)]
    flat = crops.std(dim=(1, 2, 3)) < FLAT
    print(f"flat crops {float(flat.float().mean()):.1%}")
    spoiled = {
        "training crops": crops,
        "500 training crops": crops[:500],
        "another 500 training crops": crops[500:1000],
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
    cases = {f"two halves of the test crops, split {i}": (one, other) for i, (one, other) in enumerate(halves)}
    cases |= {name: (images, test) for name, images in spoiled.items()}
    kinds = ClassifierExtractor(classifier), TextureExtractor(3)
    columns = {kind.name: distances(kind, test, cases) for kind in kinds}
    print(f"| images | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name in cases:
        print(f"| {name} | {' | '.join(column[name] for column in columns.values())} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        judge_tokenizer(sys.argv[1])
    else:
        main()
