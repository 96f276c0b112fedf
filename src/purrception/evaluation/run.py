"""``evaluate``: a run's generated images, or images somewhere, against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purrception.data import DataConfig, Skipped, Split, spread_rows, write_report
from purrception.evaluation.extractors import (
    HasColours,
    ImageClassifier,
    Ingredients,
    build_extractor,
    shared_channels,
)
from purrception.evaluation.extractors.classifier import load_classifier, save_classifier
from purrception.evaluation.features import FeatureCache
from purrception.evaluation.generation import (
    Request,
    describe,
    generate,
    images_of,
    save_images,
)
from purrception.evaluation.image_sets import FolderOfImages, ImageSet, NpzImages
from purrception.evaluation.learning import label_shares, learn_classifier, split_images
from purrception.evaluation.manifest import build_manifest
from purrception.evaluation.metrics.all import flat
from purrception.evaluation.metrics.per_class import class_by_class
from purrception.evaluation.references import Origin, Reference, open_reference, save_statistics
from purrception.evaluation.report import Evaluation, Row
from purrception.evaluation.report_picture import draw
from purrception.evaluation.settings import EvaluationConfig, Procedure
from purrception.evaluation.yardstick import Measured, Yardstick
from purrception.flow import SamplingConfig
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.storage import whole_folder
from purrception.tokenizers.quality import perplexity
from purrception.tokens import TokenDataset
from purrception.utils import distributed
from purrception.utils.errors import InputError

CLASSIFIER_FILE = "classifier.safetensors"
OTHER_SPLIT: dict[str, Split] = {"test": "train", "train": "test"}


@dataclass(frozen=True)
class _ToBeMade:
    """Images that are still to be generated."""

    grey: bool


@dataclass(frozen=True)
class _Judged:
    """A measured set of images, with what its row adds to the figures."""

    images: ImageSet
    measured: Measured
    extra: dict[str, Any]

    @property
    def row(self) -> Row:
        """Its row of the report."""
        content = self.measured.features.content
        return {"images": self.measured.title, **flat(self.measured.figures), **self.extra, "content": content}


def evaluate(
    pipeline: PurrceptionPipeline,
    data: DataConfig,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    folder: Path,
    samples: Path,
    procedure: Procedure = Procedure(),  # noqa: B008
    tokens: TokenDataset | None = None,
) -> Evaluation:
    """Judge generated images; write the report to ``folder``.

    Every process of ``torchrun`` generates and extracts its share; the first one writes. Codes are kept in
    ``samples``, and found again by the next evaluation of the same images.

    Args:
        pipeline: the network and its tokenizer.
        data: the run's images: splits to compare with, and what a classifier learns.
        config: counts, guidances, features.
        sampling: settings but for guidance.
        folder: for the report.
        samples: for codes, and images where they are asked for.
        procedure: reference and everything else.
        tokens: the run's training shards, whose codes the samples' are compared with; none leaves that out.

    Raises:
        InputError: the reference, the features or the settings cannot be used; another process makes the same
            images, or the disk is full.
    """
    classes = pipeline.transformer.num_classes
    cache = FeatureCache(procedure.cache)
    reference = open_reference(procedure.reference, data, pipeline.tokenizer, procedure.protocol)
    classifier, origin = _classifier_of_run(data, classes, config, procedure, cache)
    yardstick = _yardstick(reference, _ToBeMade(data.channels == 1), classifier, cache, config, procedure)
    judged = []
    for guidance in config.guidances:
        request = Request(
            replace(sampling, guidance_scale=guidance),
            config.seed,
            procedure.labels,
            _label_shares(procedure, tokens, classes),
        )
        codes = generate(pipeline, request, config.num, samples, procedure.batch_size)
        images = images_of(codes, pipeline, truncate=config.truncate)
        extra: dict[str, Any] = {"guidance": guidance, "nfe": codes.nfe}
        extra |= _codes_used(codes.counts(len(pipeline.transformer.codebook)))
        judged.append(_Judged(images, yardstick.measure(images), extra))
        if procedure.save_images:
            how = {**describe(pipeline, request), "nfe": codes.nfe, "count": config.num}
            extra["saved"] = str(save_images(images, codes.folder, procedure.save_images, how))
    made = describe(pipeline, Request(sampling, config.seed, procedure.labels))
    made = {"guidances": list(config.guidances), "nfe": [one.extra["nfe"] for one in judged], **made}
    made |= {"levels": "truncated"} if config.truncate else {}
    made["sampling"] = {key: value for key, value in made["sampling"].items() if key != "guidance"}
    manifest = build_manifest(yardstick, made, config.num, origin)
    floors = _floors(yardstick, config.num, _others(procedure.reference, data, config.num), tokens)
    return _report(yardstick, judged, floors, manifest, procedure, folder)


def evaluate_images(
    target: Path,
    config: EvaluationConfig,
    folder: Path,
    procedure: Procedure = Procedure(),  # noqa: B008
) -> Evaluation:
    """Judge images that are already there, a folder or an ``.npz``; write the report to ``folder``.

    Raises:
        InputError: the images, the reference or the features cannot be used.
    """
    cache = FeatureCache(procedure.cache)
    images = open_images_at(target)
    reference = open_reference(procedure.reference, None, None, procedure.protocol)
    classifier, origin = _classifier_of_images(reference, images, config, procedure, cache)
    yardstick = _yardstick(reference, images, classifier, cache, config, procedure)
    measured = yardstick.measure(images, "images")
    judged = _Judged(images, measured, {})
    manifest = build_manifest(
        yardstick, {"path": str(target), "content": measured.features.content}, measured.figures.count, origin
    )
    return _report(yardstick, [judged], _floors(yardstick, measured.figures.count), manifest, procedure, folder)


def save_reference(
    target: Path, config: EvaluationConfig, procedure: Procedure
) -> tuple[Path, tuple[Skipped, ...]]:
    """Statistics of images alone, to compare with later; returns the file, and what it is not of."""
    cache = FeatureCache(procedure.cache)
    images = open_images_at(target)
    reference = Reference(str(target), procedure.protocol or "custom", images)
    classifier, origin = _classifier_of_images(reference, images, config, procedure, cache)
    yardstick = _yardstick(reference, images, classifier, cache, config, procedure)
    _save_statistics(
        yardstick, procedure, build_manifest(yardstick, {"path": str(target)}, yardstick.real.count, origin)
    )
    return Path(procedure.save_stats), (*yardstick.real.skipped, *yardstick.real.ignored_files)


def open_images_at(target: Path) -> FolderOfImages | NpzImages:
    """Images to judge.

    Raises:
        InputError: there are none.
    """
    if target.suffix == ".npz" and target.is_file():
        reference = open_reference(str(target), None, None)
        if not isinstance(reference.images, NpzImages):
            raise InputError(f"{target} holds statistics; what is judged are images: give it as --reference")
        return reference.images
    return FolderOfImages(target)


def _yardstick(
    reference: Reference,
    judged: HasColours,
    classifier: ImageClassifier | None,
    cache: FeatureCache,
    config: EvaluationConfig,
    procedure: Procedure,
) -> Yardstick:
    ingredients = Ingredients(classifier, procedure.weights, procedure.device, sets=(reference, judged))
    extractor = build_extractor(config.features, ingredients)
    return Yardstick(
        reference,
        extractor,
        classifier,
        cache=cache,
        strict=procedure.strict,
        bootstrap=procedure.bootstrap,
        seed=config.seed,
    )


def _classifier_of_run(
    data: DataConfig, classes: int, config: EvaluationConfig, procedure: Procedure, cache: FeatureCache
) -> tuple[ImageClassifier | None, str]:
    """The classifier and where it comes from; none where there are no classes, or no images to learn."""
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
    return learn_classifier(train, classes, config.classifier, config.seed, cache), f"train split of {data.source}"


def _classifier_of_images(
    reference: Reference, judged: ImageSet, config: EvaluationConfig, procedure: Procedure, cache: FeatureCache
) -> tuple[ImageClassifier | None, str]:
    if procedure.classifier:
        return load_classifier(procedure.classifier), procedure.classifier
    if reference.images is None or len(reference.images.class_names) < 2 or config.features != "classifier":
        return None, "none"
    classes = len(reference.images.class_names)
    channels = shared_channels(reference, judged)
    made = learn_classifier(reference.images, classes, config.classifier, config.seed, cache, channels)
    return made, reference.title


def _label_shares(procedure: Procedure, tokens: TokenDataset | None, classes: int) -> tuple[float, ...]:
    if procedure.labels == "balanced" or classes == 0:
        return ()
    if tokens is None:
        raise InputError("--labels data draws labels as the training shards have them, and these are not here")
    _, labels = tokens.rows(np.arange(len(tokens)))
    return tuple(label_shares(labels, classes).tolist())


def _codes_used(counts: np.ndarray) -> dict[str, float]:
    """Share of codes that occur, and their perplexity, from how often each does."""
    return {"codes_used": float((counts > 0).mean()), "perplexity": perplexity(torch.from_numpy(counts).double())}


def _others(reference: str, data: DataConfig, count: int) -> ImageSet | None:
    """Real images that a split used as reference does not hold; none where nothing is held out."""
    if reference not in OTHER_SPLIT:
        return None
    try:
        return split_images(data, OTHER_SPLIT[reference], count)
    except InputError:
        return None


def _floors(
    yardstick: Yardstick, count: int, others: ImageSet | None = None, tokens: TokenDataset | None = None
) -> list[Row]:
    """Real images against real ones, at the count of the judged ones or as near to it as there are images."""
    rows: list[Row] = []
    if others is not None:
        title = f"real {'training' if yardstick.reference.protocol != 'adm-train' else 'held-out'} images (floor)"
        rows.append({"images": title, **flat(yardstick.measure(others, title).figures)})
    halves = yardstick.halves(count)
    if halves is not None:
        rows.append({"images": "halves of the reference", **flat(halves)})
    if tokens is not None and rows:
        indices, _ = tokens.rows(spread_rows(len(tokens), count))
        rows[0] |= _codes_used(np.bincount(indices.reshape(-1), minlength=tokens.manifest.codebook_size))
    return rows


def _report(
    yardstick: Yardstick,
    judged: Sequence[_Judged],
    floors: list[Row],
    manifest: dict[str, Any],
    procedure: Procedure,
    folder: Path,
) -> Evaluation:
    best = min(judged, key=lambda one: one.measured.figures.frechet)
    real_images = yardstick.reference.images
    real_names = () if real_images is None else real_images.class_names
    result = Evaluation(
        manifest=manifest,
        classifier_accuracy=yardstick.accuracy,
        rows=tuple(one.row for one in judged),
        floors=tuple(floors),
        warnings=tuple(dict.fromkeys(yardstick.warnings([one.measured for one in judged]))),
        classes=tuple(class_by_class(best.measured, yardstick.real, real_names)),
    )
    if distributed.rank() == 0:
        with whole_folder(folder) as partial:
            result.write(partial)
            seen = [one.measured.features for one in judged] + [yardstick.real]
            write_report(partial, sorted({one for each in seen for one in (*each.skipped, *each.ignored_files)}))
            real = (real_images, yardstick.real) if real_images is not None else None
            draw(result, (best.images, best.measured.features), real, partial)
            if yardstick.classifier is not None:
                save_classifier(yardstick.classifier, partial / CLASSIFIER_FILE)
        if procedure.save_stats:
            _save_statistics(yardstick, procedure, manifest)
    distributed.wait()
    return result


def _save_statistics(yardstick: Yardstick, procedure: Procedure, manifest: dict[str, Any]) -> None:
    """The reference's statistics, and beside them the classifier that they are seen through."""
    path = Path(procedure.save_stats)
    reference, extractor = yardstick.reference, yardstick.extractor
    origin = Origin(extractor.name, extractor.fingerprint, reference.protocol, reference.title)
    save_statistics(path, yardstick.real, origin, manifest)
    if yardstick.classifier is not None and extractor.name == "classifier":
        save_classifier(yardstick.classifier, path.with_suffix(f".{CLASSIFIER_FILE}"))
