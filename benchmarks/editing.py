"""How well a run edits: half of each test image is repainted under its class, and uncertain tokens are refined.

    python benchmarks/editing.py runs/digits

A classifier trained on the real training images tells whether an image is recognised as its class. Methods of
conditioning are compared with and without the classes of the images, also by the Fréchet distance, in the features
of that classifier, between the results and the same test images as reconstructed by the tokenizer. Kept tokens are
the same in both, so that it is a distance between joint distributions of kept and new tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from purrception.data import images_to_tensor, load_split
from purrception.evaluation import train_classifier
from purrception.evaluation.extractors.classifier import accuracy
from purrception.evaluation.metrics.fid import frechet_distance
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.experiment.config import load_config
from purrception.experiment.saved_run import load_pipeline, sampling_defaults
from purrception.generation.editing import Editor
from purrception.generation.sampler import sample_codes
from purrception.training import RunDirectory

GUIDANCES = (1.0, 1.5)
THRESHOLDS = (0.3, 0.5)
BATCH = 480
Recognised = Callable[[Tensor, Tensor], float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=960, help="images that are generated and refined")
    parser.add_argument("--steps", type=int, default=12, help="of the comparison of ways of conditioning")
    arguments = parser.parse_args()
    config = load_config(RunDirectory.open(arguments.run).config_file)
    pipeline = load_pipeline(arguments.run)
    editor = Editor(
        pipeline.transformer.eval(), pipeline.objective, sampling_defaults(arguments.run), batch_size=BATCH
    )
    images, labels = load_split(config.data, "train")
    test_images, test_labels = load_split(config.data, "test")
    classifier = train_classifier(images, labels, pipeline.transformer.num_classes, config.evaluation.classifier)

    def recognised(indices: Tensor, wanted: Tensor) -> float:
        decoded = images_to_tensor(list(pipeline.tokenizer.decode_images(indices)))
        return accuracy(classifier, decoded, wanted)

    codes = pipeline.tokenizer.encode(test_images)
    print(
        f"{len(codes)} test images: real {accuracy(classifier, test_images, test_labels):.1%} recognised, ", end=""
    )
    print(f"as the tokenizer shows them {recognised(codes, test_labels):.1%}")

    def statistics(indices: Tensor) -> FeatureStatistics:
        decoded = images_to_tensor(list(pipeline.tokenizer.decode_images(indices)))
        with torch.no_grad():
            return FeatureStatistics.of(classifier.features(decoded))

    fewer = replace(editor, settings=replace(editor.settings, num_inference_steps=arguments.steps))
    conditioning(fewer, codes, test_labels, recognised, statistics)
    inpainting(editor, codes, test_labels, recognised)
    refinement(editor, torch.arange(arguments.num) % pipeline.transformer.num_classes, recognised)


def halves(codes: Tensor) -> dict[str, Tensor]:
    """Sites of each half of every image, bool ``[B, h, w]``."""
    height, width = codes.shape[1:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    found = {
        "left": columns < width // 2,
        "right": columns >= width // 2,
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
    }
    return {name: half.expand_as(codes) for name, half in found.items()}


def conditioning(
    editor: Editor,
    codes: Tensor,
    labels: Tensor,
    recognised: Recognised,
    statistics: Callable[[Tensor], FeatureStatistics],
) -> None:
    """Each way of conditioning, with and without the class: means over the four halves."""
    real = statistics(codes)
    null = torch.full_like(labels, editor.network.num_classes)
    print("| class | conditioning | recognised | Fréchet | NFE | seconds |\n|---|---|---|---|---|---|")
    for name, asked in (("its own", labels), ("none named", null)):
        for way in editor.objective.conditionings[::-1]:
            shares, distances, seconds, nfe = [], [], 0.0, 0
            for free in halves(codes).values():
                began = time.perf_counter()
                made = replace(editor, conditioning=way).inpaint(codes, free, asked)
                seconds, nfe = seconds + time.perf_counter() - began, made.nfe
                shares.append(recognised(made.indices, labels))
                distances.append(frechet_distance(statistics(made.indices), real))
            print(
                f"| {name} | {way} | {fmean(shares):.1%} | {fmean(distances):.2f} | {nfe} | {seconds:.1f} |",
                flush=True,
            )


def inpainting(editor: Editor, codes: Tensor, labels: Tensor, recognised: Recognised) -> None:
    """Each half of every image, made anew under its class."""
    print("| half made anew | guidance | recognised |\n|---|---|---|")
    for name, free in halves(codes).items():
        for guidance in GUIDANCES:
            made = replace(editor, settings=replace(editor.settings, guidance_scale=guidance)).inpaint(
                codes, free, labels
            )
            assert torch.equal(made.indices[~free], codes[~free])
            print(f"| {name} | {guidance:g} | {recognised(made.indices, labels):.1%} |", flush=True)


def refinement(editor: Editor, labels: Tensor, recognised: Recognised) -> None:
    """Generated images before and after their uncertain tokens were made anew, with the run's own settings."""
    made = sample_codes(editor.network, editor.objective, labels, editor.settings, editor.seed, BATCH)
    assert made.entropy is not None
    print("| threshold, nats | tokens changed | mean entropy | recognised |\n|---|---|---|---|")
    print(
        f"| before | – | {float(made.entropy.mean()):.3f} | {recognised(made.indices, labels):.1%} |", flush=True
    )
    for threshold in THRESHOLDS:
        refined = editor.refine(made, labels, threshold)
        assert refined.entropy is not None
        certain = made.entropy <= threshold
        assert torch.equal(refined.indices[certain], made.indices[certain])
        changed = float((refined.indices != made.indices).float().mean())
        after = recognised(refined.indices, labels)
        entropy = float(refined.entropy.mean())
        print(f"| {threshold:g} | {changed:.1%} | {entropy:.3f} | {after:.1%} |", flush=True)


if __name__ == "__main__":
    main()
