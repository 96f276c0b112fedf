"""``evaluate``: a run's generated images, or images somewhere, against a reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purrception.data import DataConfig, Skipped, Split, spread_rows, write_report
from purrception.evaluation.classifier_training import train_or_load_classifier
from purrception.evaluation.evaluator import Evaluator, Measured
from purrception.evaluation.extractors import ExtractorInputs, ImageClassifier, build_extractor
from purrception.evaluation.extractors.classifier import load_classifier, save_classifier
from purrception.evaluation.features import FeatureCache
from purrception.evaluation.generation import Request, describe, generate, images_of, save_images
from purrception.evaluation.image_sets import FolderOfImages, ImageSet, NpzImages, split_images
from purrception.evaluation.manifest import build_manifest
from purrception.evaluation.metrics.held_out import generalisation_gap
from purrception.evaluation.metrics.measure import with_all_names
from purrception.evaluation.metrics.per_class import measure_classes
from purrception.evaluation.references import Origin, Reference, open_reference, save_statistics
from purrception.evaluation.report import Evaluation, Memorised, Row
from purrception.evaluation.report_picture import draw
from purrception.evaluation.settings import EvaluationConfig, Procedure
from purrception.evaluation.training_neighbours import MOST_IMAGES, ShownPairs, TrainingNeighbours
from purrception.flow import SamplingConfig
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.storage import whole_folder
from purrception.tokenizers.quality import perplexity
from purrception.tokens import TokenDataset
from purrception.utils import distributed
from purrception.utils.errors import InputError

CLASSIFIER_FILE = "classifier.safetensors"
NOT_OF_A_RUN = "images alone do not tell which images they were learned from: evaluate a run"
OTHER_SPLIT: dict[str, Split] = {"test": "train", "train": "test"}


def evaluate(
    pipeline: PurrceptionPipeline,
    data: DataConfig,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    folder: Path,
    samples: Path,
    procedure: Procedure = Procedure(),  # noqa: B008
    tokens: TokenDataset | None = None,
    held_out: TokenDataset | None = None,
) -> Evaluation:
    """Generate images and measure them; write the report to ``folder``.

    Every process of ``torchrun`` generates and extracts its share; the first one writes. Codes are kept in
    ``samples``, and found again by the next evaluation of the same images.

    Args:
        pipeline: the network and its tokenizer.
        data: the run's images: splits to compare with, and what a classifier is trained on.
        config: number of images, guidance scales, features.
        sampling: settings apart from guidance.
        folder: for the report.
        samples: for codes, and for images where they are to be saved.
        procedure: reference and everything else.
        tokens: the run's training shards, whose codes the samples' are compared with; none leaves that out.
        held_out: its held-out shards, beside which the samples' likeness to training images is put; none leaves
            memorisation out.

    Raises:
        InputError: the reference, the features or the settings cannot be used; another process generates the same
            images, or the disk is full.
    """
    classes = pipeline.transformer.num_classes
    reference = open_reference(procedure.reference or "test", data, pipeline.tokenizer, procedure.protocol)
    classifier, origin = _classifier_of_run(data, classes, config, procedure)
    evaluator = _evaluator(reference, classifier, config, procedure, lambda: reference.grey and data.channels == 1)
    neighbours = _neighbours(evaluator, data, pipeline, procedure, tokens, held_out, config.seed)
    measured, rows, pairs = [], [], []
    for guidance in config.guidances:
        settings = replace(sampling, guidance_scale=guidance)
        request = Request(settings, config.seed, procedure.labels, _label_shares(procedure, tokens, classes))
        codes = generate(pipeline, request, config.num, samples, procedure.batch_size)
        images = images_of(codes, pipeline, truncate=config.truncate)
        extra: dict[str, Any] = {"guidance": guidance, "nfe": codes.nfe}
        extra |= _codes_used(codes.counts(len(pipeline.transformer.codebook)))
        if procedure.save_images:
            how = {**describe(pipeline, request), "nfe": codes.nfe, "count": config.num}
            extra["saved"] = str(save_images(images, codes.folder, procedure.save_images, how))
        measured.append(evaluator.measure(images))
        rows.append(_row(measured[-1], extra))
        pairs.append(neighbours.measure(measured[-1], codes, guidance))
    how = describe(pipeline, Request(sampling, config.seed, procedure.labels))
    how = {"guidances": list(config.guidances), "nfe": [row["nfe"] for row in rows], **how}
    how |= {"levels": "truncated"} if config.truncate else {}
    del how["sampling"]["guidance_scale"]
    manifest = build_manifest(evaluator, how, config.num, origin)
    floors = _floors(evaluator, config.num, _other_split(procedure.reference or "test", data, config.num), tokens)
    gap = generalisation_gap(pipeline.transformer, pipeline.objective, tokens, held_out, config.seed)
    memorised = Memorised(tuple(neighbours.rows), gap, neighbours.missing)
    return _report(evaluator, measured, rows, floors, manifest, procedure, folder, memorised, pairs)


def _neighbours(
    evaluator: Evaluator,
    data: DataConfig,
    pipeline: PurrceptionPipeline,
    procedure: Procedure,
    tokens: TokenDataset | None,
    held_out: TokenDataset | None,
    seed: int,
) -> TrainingNeighbours:
    """The search among the training images that are here."""
    most, images = procedure.training_images, None
    with contextlib.suppress(InputError):  # they are elsewhere, or nothing is held out
        images = split_images(data, "train", most), split_images(data, "test", MOST_IMAGES)
    device = torch.device(procedure.device)
    return TrainingNeighbours(evaluator, images, pipeline.tokenizer, tokens, held_out, most, device, seed)


def evaluate_images(
    target: Path,
    config: EvaluationConfig,
    folder: Path,
    procedure: Procedure = Procedure(),  # noqa: B008
) -> Evaluation:
    """Measure images that are already there, a folder or an ``.npz``; write the report to ``folder``.

    Raises:
        InputError: the images, the reference or the features cannot be used.
    """
    images = open_images_at(target)
    reference = open_reference(procedure.reference, None, None, procedure.protocol)
    evaluator, origin = _evaluator_of_images(reference, images, config, procedure)
    measured = evaluator.measure(images, "images")
    count = measured.metrics["count"]
    manifest = build_manifest(
        evaluator, {"path": str(target), "content": measured.features.content}, count, origin
    )
    rows, floors = [_row(measured, {})], _floors(evaluator, count)
    memorised = Memorised(missing=(NOT_OF_A_RUN,))
    return _report(evaluator, [measured], rows, floors, manifest, procedure, folder, memorised)


def save_reference(
    target: Path, config: EvaluationConfig, procedure: Procedure
) -> tuple[Path, tuple[Skipped, ...]]:
    """Statistics of images alone, to compare with later; returns the file, and the images that were skipped."""
    images = open_images_at(target)
    reference = Reference(str(target), procedure.protocol or "custom", images)
    evaluator, origin = _evaluator_of_images(reference, images, config, procedure)
    manifest = build_manifest(evaluator, {"path": str(target)}, evaluator.real.count, origin)
    _save_statistics(evaluator, procedure, manifest)
    return Path(procedure.save_stats), (*evaluator.real.skipped, *evaluator.real.ignored_files)


def open_images_at(target: Path) -> FolderOfImages | NpzImages:
    """Images to evaluate.

    Raises:
        InputError: there are none.
    """
    if target.suffix == ".npz" and target.is_file():
        reference = open_reference(str(target), None, None)
        if not isinstance(reference.images, NpzImages):
            raise InputError(f"{target} holds statistics, not images to evaluate: give it as --reference")
        return reference.images
    return FolderOfImages(target)


def _evaluator(
    reference: Reference,
    classifier: ImageClassifier | None,
    config: EvaluationConfig,
    procedure: Procedure,
    grey: Callable[[], bool],
) -> Evaluator:
    inputs = ExtractorInputs(classifier, procedure.weights, procedure.device, grey)
    return Evaluator(
        reference,
        build_extractor(config.features, inputs),
        classifier,
        cache=FeatureCache(procedure.cache),
        strict=procedure.strict,
        bootstrap=procedure.bootstrap,
        seed=config.seed,
    )


def _evaluator_of_images(
    reference: Reference, images: ImageSet, config: EvaluationConfig, procedure: Procedure
) -> tuple[Evaluator, str]:
    """The evaluator, and where its classifier comes from."""

    def grey() -> bool:
        return reference.grey and images.grey

    real, classifier, origin = reference.images, None, "none"
    if procedure.classifier:
        classifier, origin = load_classifier(procedure.classifier), procedure.classifier
    elif config.features == "classifier" and real is not None and len(real.class_names) > 1:
        classes, cache, channels = len(real.class_names), FeatureCache(procedure.cache), 1 if grey() else 3
        classifier = train_or_load_classifier(real, classes, config.classifier, config.seed, cache, channels)
        origin = reference.title
    return _evaluator(reference, classifier, config, procedure, grey), origin


def _classifier_of_run(
    data: DataConfig, classes: int, config: EvaluationConfig, procedure: Procedure
) -> tuple[ImageClassifier | None, str]:
    """The classifier and where it comes from; none where there are no classes, or no images to train it on."""
    if procedure.classifier:
        return load_classifier(procedure.classifier), procedure.classifier
    if classes < 2:
        return None, "none: the model has no classes"
    try:
        train = split_images(data, "train")
    except InputError:
        if config.features == "classifier":
            raise
        return None, "none: the run's images are not here"
    cache = FeatureCache(procedure.cache)
    classifier = train_or_load_classifier(train, classes, config.classifier, config.seed, cache)
    return classifier, f"train split of {data.source}"


def _label_shares(procedure: Procedure, tokens: TokenDataset | None, classes: int) -> tuple[float, ...]:
    """How often each class occurs in the training shards; empty where classes take turns."""
    if procedure.labels == "balanced" or classes == 0:
        return ()
    if tokens is None:
        raise InputError("--labels data draws labels as the training shards have them, and these are not here")
    _, labels = tokens.rows(np.arange(len(tokens)))
    return tuple((np.bincount(labels, minlength=classes) / len(labels)).tolist())


def _codes_used(counts: np.ndarray) -> dict[str, float]:
    """Share of codes that occur, and their perplexity, from how often each does."""
    return {"codes_used": float((counts > 0).mean()), "perplexity": perplexity(torch.from_numpy(counts).double())}


def _row(measured: Measured, extra: dict[str, Any]) -> Row:
    """A set's row of the report."""
    metrics = with_all_names(measured.metrics)
    parts = {"parts": [asdict(part) for part in measured.parts]} if measured.parts else {}
    return {"images": measured.title, **metrics, **extra, **parts, "content": measured.features.content}


def _other_split(reference: str, data: DataConfig, count: int) -> ImageSet | None:
    """Real images that a split used as reference does not hold; none where nothing is held out."""
    if reference not in OTHER_SPLIT:
        return None
    try:
        return split_images(data, OTHER_SPLIT[reference], count)
    except InputError:
        return None


def _floors(
    evaluator: Evaluator, count: int, others: ImageSet | None = None, tokens: TokenDataset | None = None
) -> list[Row]:
    """Real images against real ones, at the count of the evaluated ones or as near to it as there are images."""
    rows: list[Row] = []
    if others is not None:
        title = f"real {'training' if evaluator.reference.protocol != 'adm-train' else 'held-out'} images (floor)"
        row = {"images": title, **with_all_names(evaluator.measure(others, title).metrics)}
        if evaluator.reference.protocol != "adm-train":  # the classifier has learned these images
            row |= dict.fromkeys(("recognised", "recognised_low", "recognised_high"))
        rows.append(row)
    halves = evaluator.measure_halves(count)
    if halves is not None:
        rows.append({"images": "halves of the reference", **with_all_names(halves)})
    if tokens is not None and rows:
        indices, _ = tokens.rows(spread_rows(len(tokens), count))
        rows[0] |= _codes_used(np.bincount(indices.reshape(-1), minlength=tokens.manifest.codebook_size))
    return rows


def _report(
    evaluator: Evaluator,
    measured: Sequence[Measured],
    rows: Sequence[Row],
    floors: Sequence[Row],
    manifest: dict[str, Any],
    procedure: Procedure,
    folder: Path,
    memorised: Memorised,
    pairs: Sequence[ShownPairs | None] = (),
) -> Evaluation:
    nearest = min(range(len(measured)), key=lambda number: measured[number].metrics["frechet"])
    best = measured[nearest]
    real_images = evaluator.reference.images
    real_names = () if real_images is None else real_images.class_names
    result = Evaluation(
        manifest=manifest,
        classifier_accuracy=evaluator.accuracy,
        rows=tuple(rows),
        floors=tuple(floors),
        warnings=tuple(dict.fromkeys(evaluator.warnings(measured))),
        classes=tuple(measure_classes(best, evaluator.real, real_names)),
        memorised=memorised,
        real_parts=evaluator.real_parts,
    )
    if distributed.rank() == 0:
        with whole_folder(folder) as partial:
            result.write(partial)
            seen = [*(one.features for one in measured), evaluator.real]
            write_report(partial, sorted({one for each in seen for one in (*each.skipped, *each.ignored_files)}))
            real = (real_images, evaluator.real) if real_images is not None else None
            draw(result, (best.images, best.features), real, partial, pairs[nearest] if pairs else None)
            if evaluator.classifier is not None:
                save_classifier(evaluator.classifier, partial / CLASSIFIER_FILE)
        if procedure.save_stats:
            _save_statistics(evaluator, procedure, manifest)
    distributed.wait()
    return result


def _save_statistics(evaluator: Evaluator, procedure: Procedure, manifest: dict[str, Any]) -> None:
    """The reference's statistics, and beside them the classifier whose features they are of."""
    path = Path(procedure.save_stats)
    reference, extractor = evaluator.reference, evaluator.extractor
    origin = Origin(extractor.name, extractor.fingerprint, reference.protocol, reference.title)
    save_statistics(path, evaluator.real, origin, manifest)
    if evaluator.classifier is not None and extractor.name == "classifier":
        save_classifier(evaluator.classifier, path.with_suffix(f".{CLASSIFIER_FILE}"))
