"""A first evaluation: does a classifier recognise the images, and how far are they from real ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from purrception.data import DataConfig
from purrception.errors import InputError
from purrception.evaluation.classifier import ClassifierConfig
from purrception.evaluation.features import check_features
from purrception.evaluation.judge import Judge, Quality
from purrception.flow import SamplingConfig
from purrception.pipeline import PurrceptionPipeline
from purrception.progress import ProgressBar
from purrception.tokenizers import fingerprint

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images are judged, by which classifier and in which features."""

    num: int = 500
    """Generated images; classes take turns."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales to judge, one row of the report each."""
    seed: int = 0
    """Of the generated images."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Trained on the real training images."""
    features: str = "classifier"
    """What distances, precision and recall are measured in: classifier (what it knows of the classes) or texture
    (fixed random filters, steadier where there are few classes)."""

    def __post_init__(self) -> None:
        """Refuse an empty evaluation and unknown features."""
        check_features(self.features)
        if self.num < 4 or not self.guidances:
            raise InputError(
                f"an evaluation needs at least 4 images and one guidance; given {self.num} "
                f"and {list(self.guidances)}"
            )


@dataclass(frozen=True)
class Row(Quality):
    """Figures of one set of generated images, and the guidance they were made with."""

    guidance: float


@dataclass(frozen=True)
class Evaluation:
    """Figures with their protocol."""

    protocol: str
    num: int
    seed: int
    sampling: SamplingConfig
    """Settings that the rows share, but for guidance."""
    tokenizer_hash: str
    transformer_hash: str
    real_test_images: int
    classifier_accuracy: float
    """On the real test images."""
    frechet_floor: float
    """The distance between real training and real test images: what a perfect model could reach."""
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """The report as text."""
        used = self.sampling
        lines = [
            "# Evaluation",
            "",
            f"{self.protocol}. {self.num} images, seed {self.seed}; {used.solver}, {used.steps} steps "
            f"on the {used.grid} grid, temperature {used.temperature}.",
            "",
            f"Classifier accuracy on {self.real_test_images} real test images: {self.classifier_accuracy:.1%}.",
            "",
            "| images | guidance | NFE | recognised | Fréchet distance | times the floor | precision | recall |",
            "|---|---|---|---|---|---|---|---|",
            f"| real training images (floor) | – | – | – | {self.frechet_floor:.3f} | 1.00 | – | – |",
        ]
        lines += [
            f"| generated | {row.guidance:g} | {row.nfe} | {row.recognised:.1%} | {row.frechet:.3f} | "
            f"{row.frechet / self.frechet_floor:.2f} | {row.precision:.3f} | {row.recall:.3f} |"
            for row in self.rows
        ]
        return "\n".join(lines) + "\n"


def evaluate(
    pipeline: PurrceptionPipeline,
    data: DataConfig,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    folder: Path,
) -> Evaluation:
    """Judge generated images against the real ones of ``data``; write JSON and Markdown to ``folder``.

    Distances to the real test images stand beside that of the real training images; see :class:`Judge`.

    Raises:
        InputError: the data has no classes, or no test images.
    """
    network, objective = pipeline.transformer.eval(), pipeline.objective
    judge = Judge(
        data, pipeline.tokenizer, network.num_classes, config.num, config.classifier, config.features, config.seed
    )
    rows = []
    for guidance in config.guidances:
        settings = replace(sampling, guidance=guidance)
        with ProgressBar(f"guidance {guidance:g}", config.num) as bar:
            quality = judge.measure(network, objective, settings, on_progress=bar.update)
        rows.append(Row(**asdict(quality), guidance=guidance))
    result = Evaluation(
        protocol=f"{config.features} features; reference: real test images",
        num=config.num,
        seed=config.seed,
        sampling=sampling,
        tokenizer_hash=pipeline.tokenizer.fingerprint,
        transformer_hash=fingerprint(network),
        real_test_images=judge.real_images,
        classifier_accuracy=judge.accuracy,
        frechet_floor=judge.floor,
        rows=tuple(rows),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT_JSON).write_text(json.dumps(asdict(result), indent=2))
    (folder / REPORT_MARKDOWN).write_text(result.markdown())
    return result
