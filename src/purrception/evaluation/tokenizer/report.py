"""Whether a tokenizer is good enough for some images, before anyone trains on its codes for days."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data import (
    DataConfig,
    ReadableImages,
    array_to_pil,
    images_to_tensor,
    open_images,
    spread_rows,
    write_report,
)
from purrception.evaluation.extractors.classifier import accuracy, train_classifier
from purrception.evaluation.extractors.random_features import random_features
from purrception.evaluation.settings import ClassifierConfig
from purrception.evaluation.tokenizer.codebook import CodebookState, examine_codebook
from purrception.evaluation.tokenizer.recommendation import THRESHOLDS, Recommendation, recommend
from purrception.evaluation.tokenizer.reconstruction import Distance, Features, Reconstructions, reconstruct
from purrception.storage import save_png, whole_folder, write_file
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN
from purrception.tokenizers import VQTokenizer
from purrception.tokenizers.quality import peak_signal_to_noise
from purrception.utils.errors import InputError
from purrception.utils.text import table
from purrception.utils.visualisation import tile_images

PICTURES = {
    "reconstructions.png": "Originals, each above its reconstruction, drawn from all images",
    "worst.png": "The worst reconstructions, the worst first",
    "median.png": "The median ones",
    "codebook.png": "How often each code occurs, and how far it is from the nearest other one",
}
SHOWN = 10
LARGEST_CLASSIFIED = 64
"""Pixels: the classifier of ``evaluate`` is made for small images."""
CLASSIFIER, CLASSIFIER_IMAGES = ClassifierConfig(), 5000


@dataclass(frozen=True)
class TokenizerReport:
    """Metrics of one tokenizer on one set of images, with their protocol."""

    tokenizer_hash: str
    images: int
    """Number of images."""
    split: str
    """The split that they are from: test, or train where nothing is held out."""
    image_size: int
    psnr: float
    """PSNR over all pixels together, dB."""
    psnr_unquantised: float
    """PSNR when the encoder's outputs are decoded without quantisation; where it is far above ``psnr``, the
    codebook is the bottleneck."""
    psnr_worst: float
    """PSNR of the worst image."""
    ssim: float
    """Mean SSIM over images."""
    ssim_worst: float
    """The lowest SSIM of an image."""
    distances: tuple[Distance, ...]
    codebook: CodebookState
    verdict: Recommendation

    def markdown(self) -> str:
        """The report as text."""
        book = self.codebook
        rows = {
            "PSNR over all pixels": f"{self.psnr:.2f} dB (worst image {self.psnr_worst:.2f} dB)",
            "PSNR without quantisation": f"{self.psnr_unquantised:.2f} dB",
            "SSIM, mean over images": f"{self.ssim:.4f} (worst image {self.ssim_worst:.4f})",
            "codes used": f"{book.usage:.1%} of {book.codes}; {book.dead} dead",
            "sites seen per code": f"{book.sites_per_code:.1f}",
            "perplexity": f"{book.perplexity:.1f}",
            "distance between codes": f"least {book.smallest_distance:.4f}, median {book.median_distance:.4f}",
            "quantisation error (RMS per site)": f"{book.quantisation_error:.4f}",
            "codes within noise of another": f"{book.within_noise:.1%} (nearer to it than the quantisation error)",
            "mean per channel": _numbers(book.channel_mean),
            "deviation per channel": _numbers(book.channel_deviation),
            "one deviation for all": f"{book.deviation:.4f} (training subtracts the mean and divides by it)",
        }
        distances = [
            [row.features, f"{row.reconstructions:.5g}", f"{row.share:.2%}", f"{row.floor:.5g}"]
            for row in self.distances
        ]
        lines = [
            "# Tokenizer report",
            "",
            f"**{self.verdict.advice.capitalize()}.** {' '.join(self.verdict.reasons)}",
            "",
            f"{self.images} images of the {self.split} split at {self.image_size} pixels; tokenizer "
            f"`{self.tokenizer_hash[:12]}`.",
            "",
            table(["what", "measured"], rows.items()),
            "",
            "Fréchet distances of reconstructions from their originals, over one half of the images. The floor is "
            "the distance between the originals of both halves, at the same count: chance alone.",
            "",
            table(["features", "reconstructions", "share of the features' variance", "floor"], distances),
            "",
            f"Thresholds: {THRESHOLDS}",
        ]
        for file, caption in PICTURES.items():
            lines += ["", f"{caption}:", "", f"![{caption}]({file})"]
        return "\n".join(lines) + "\n"


def report_tokenizer(
    tokenizer: VQTokenizer,
    data: DataConfig,
    folder: Path,
    num: int = 1000,
    batch_size: int = 64,
    history: Sequence[float] = (),
) -> TokenizerReport:
    """Evaluate a tokenizer on images; write JSON, Markdown, PNGs and a list of unreadable images to ``folder``.

    Args:
        tokenizer: the tokenizer, as it is.
        data: the images; the held-out ones are taken, or all where none are held out.
        folder: for the report.
        num: at most this many images, drawn from the source by a key.
        batch_size: images at a time; does not change the metrics.
        history: PSNR during its training; see :func:`recommend`.

    Raises:
        InputError: the tokenizer does not take these images, or there are fewer than 4.
    """
    check_images(tokenizer, data)
    images, split = ReadableImages(open_images(data, "test")), "test"
    if len(images) == 0:
        images, split = ReadableImages(open_images(data, "train")), "train"
    rows = images.readable(spread_rows(len(images), num))
    if len(rows) < 4:
        raise InputError(
            f"a report needs at least 4 images; the {split} split holds {len(images)}, num is {num}, and "
            f"{len(rows)} of these can be read"
        )
    made = reconstruct(tokenizer, images, rows, _features(data), batch_size)
    state, nearest = examine_codebook(tokenizer.codebook, made.counts, made.code_error)
    result = TokenizerReport(
        tokenizer_hash=tokenizer.fingerprint,
        images=len(rows),
        split=split,
        image_size=data.image_size,
        psnr=made.psnr,
        psnr_unquantised=peak_signal_to_noise(made.unquantised_error),
        psnr_worst=peak_signal_to_noise(float(made.squared_error.max())),
        ssim=float(made.similarity.mean()),
        ssim_worst=float(made.similarity.min()),
        distances=made.distances,
        codebook=state,
        verdict=recommend(len(rows), made.psnr, float(made.similarity.mean()), made.distances, state, history),
    )
    with whole_folder(folder) as partial:
        write_report(partial, images.skipped)
        _draw(tokenizer, images, rows, made, partial)
        _draw_codebook(made.counts, nearest, state, partial / "codebook.png")
        write_file(partial / REPORT_JSON, json.dumps(asdict(result), indent=2))
        write_file(partial / REPORT_MARKDOWN, result.markdown())
    return result


def check_images(tokenizer: VQTokenizer, data: DataConfig) -> None:
    """Refuse images that a tokenizer does not take.

    Raises:
        InputError: their channels or size do not fit.
    """
    if tokenizer.image_channels != data.channels or data.image_size % tokenizer.downsampling:
        raise InputError(
            f"this tokenizer takes images of {tokenizer.image_channels} channels whose side is a multiple of "
            f"{tokenizer.downsampling}; given --data.channels {data.channels} and --data.image-size "
            f"{data.image_size}"
        )


def _features(data: DataConfig) -> dict[str, Features]:
    """Random filters always; the classifier of ``evaluate`` where there are classes and the images are small."""
    kinds: dict[str, Features] = {"random filters": random_features}
    train = ReadableImages(open_images(data, "train"))
    classes = len(train.source.class_names)
    if classes >= 2 and data.image_size <= LARGEST_CLASSIFIED and len(train) >= 2:
        rows = spread_rows(len(train), CLASSIFIER_IMAGES)
        arrays, labels = zip(*(train[int(row)] for row in rows), strict=True)
        images, targets = images_to_tensor(arrays), torch.tensor(labels)
        classifier = train_classifier(images, targets, classes, CLASSIFIER)
        share = accuracy(classifier, images, targets)
        kinds[f"classifier of {classes} classes ({share:.1%} right on training images)"] = classifier.features
    return kinds


def _draw(
    tokenizer: VQTokenizer, images: ReadableImages, rows: np.ndarray, made: Reconstructions, folder: Path
) -> None:
    """Originals above reconstructions: a spread of images, the worst and the median ones."""
    ranked = made.squared_error.argsort(descending=True).numpy()  # the worst first
    shown = min(SHOWN, len(rows))
    middle = (len(rows) - shown) // 2
    spread = spread_rows(len(rows), 3 * shown)
    chosen = {"reconstructions.png": spread, "worst.png": ranked[:shown], "median.png": ranked[middle:][:shown]}
    for file, numbers in chosen.items():
        originals = np.stack([images[int(rows[number])][0] for number in numbers])
        reconstructed = tokenizer.decode_images(tokenizer.encode(images_to_tensor(list(originals))))
        lines = [
            sheet[start : start + shown]
            for start in range(0, len(numbers) // shown * shown, shown)
            for sheet in (originals, reconstructed)
        ]
        scale = max(1, 64 // originals.shape[1])
        save_png(array_to_pil(tile_images(np.concatenate(lines), columns=shown, scale=scale)), folder / file)


def _draw_codebook(counts: Tensor, nearest: Tensor, state: CodebookState, file: Path) -> None:
    """Use of the codes, by rank, and a histogram of the distances to the nearest other code."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    use, spread = figure.subplots(1, 2)
    use.plot(np.sort(counts.numpy())[::-1] + 0.5)
    use.set(yscale="log", xlabel="code, by rank", ylabel="occurrences + ½")
    spread.hist(nearest.numpy(), bins=50)
    spread.axvline(state.quantisation_error, color="black", linestyle="--", label="quantisation error")
    spread.set(xlabel="distance to the nearest other code", ylabel="codes")
    spread.legend()
    save_png(figure, file)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
