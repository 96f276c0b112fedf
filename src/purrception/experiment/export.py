"""Exporting a run: one folder with the averaged weights, the tokenizer and a model card."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from purrception.data.emoji import STYLES
from purrception.experiment.build import run_scheduler
from purrception.experiment.config import RunConfig, load_config, map_paths
from purrception.experiment.recipes import FASHION_CLASSES
from purrception.experiment.saved_run import load_best_pipeline, load_pipeline
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.storage import dump_settings, read_json, read_json_lines, whole_folder
from purrception.storage.model_folder import check_variant
from purrception.storage.pipeline_folder import CARD, CODE_FILE, CONFIG, SAMPLES
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN
from purrception.tokenizers import PUBLIC_TOKENIZERS
from purrception.tokenizers.saved import ORIGIN_FILE
from purrception.training import CheckpointStore, RunDirectory
from purrception.training.checkpoint import Checkpoint
from purrception.utils.errors import unknown_name
from purrception.utils.text import command_line

TASK = "unconditional-image-generation"
METRICS = {
    "frechet": "Fréchet distance",
    "spatial_frechet": "spatial Fréchet distance",
    "kid": "kernel distance",
    "inception_score": "Inception score",
    "precision": "precision",
    "recall": "recall",
}
"""What a card tells the hub of an evaluation: the titles of its metrics."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DATA = {
    "digits": "the 1797 handwritten digits of scikit-learn (UCI's optical recognition set, CC BY 4.0)",
    "photos": "crops of scikit-learn's two sample photographs (CC BY 2.0, as its README.txt says)",
    "emoji": "emoji by {styles}; names and categories by Unicode, Unicode licence",
    "idx": "the IDX files {root}; their licence is not recorded",
    "fashion": "Fashion-MNIST (Zalando, arXiv 1708.07747), MIT",
    "folder": "a folder of the author's own images; their licence is not recorded",
    "webdataset": "tars of the author's own images; their licence is not recorded",
    "hub": "the hub data set {root}; its page states the licence",
}
TOKENIZER_LICENCES = {
    "taming": "MIT, as the repository CompVis/latent-diffusion states",
    "llamagen": "MIT, as the repository FoundationVision/LlamaGen states",
}


def export_run(
    root: Path | str,
    folder: Path,
    dtype: str = "float32",
    variant: str = "",
    licence: str = "",
    *,
    best: bool = False,
) -> PurrceptionPipeline:
    """Write the pipeline of a run with its model card; of an unfinished run, from the latest checkpoint.

    The folder also holds the code with which diffusers opens it (:mod:`purrception.generation.portable`).

    The tokenizer stays float32, so that its codes are exactly those that were learned.

    Args:
        root: the run.
        folder: the folder to write, which must not be there yet.
        dtype: precision of the network's weights: float32, bfloat16 or float16.
        variant: part of the names of weight files, as diffusers' ``variant``.
        licence: licence of the weights, an identifier of the hub such as ``apache-2.0``; empty: not stated.
        best: take the checkpoint with the lowest held-out loss instead.

    Raises:
        InputError: there is no run, nothing is trained yet, or the precision is unknown; the folder is not empty,
            or the disk is full.
    """
    if dtype not in PRECISIONS:
        raise unknown_name("precision", dtype, PRECISIONS)
    check_variant(variant)
    run = RunDirectory.open(root)
    config = load_config(run.config_file)
    pipeline = load_best_pipeline(root) if best else load_pipeline(root)
    pipeline.portable = True
    pipeline.companions = {
        CARD: model_card(run, config, pipeline, dtype, licence, best=best).encode(),
        CONFIG: dump_settings(map_paths(replace(config, runs=_last_part(config.runs)), _last_part)).encode(),
    }
    pipeline.scheduler = run_scheduler(config)
    if not best and (grids := sorted(run.samples.glob("step-*.png"))):
        pipeline.companions[SAMPLES] = grids[-1].read_bytes()
    torch.nn.Module.to(pipeline.transformer, PRECISIONS[dtype])
    with whole_folder(folder) as partial:
        pipeline.save_pretrained(partial, variant=variant or None)
    return pipeline


def model_card(
    run: RunDirectory,
    config: RunConfig,
    pipeline: PurrceptionPipeline,
    dtype: str = "float32",
    licence: str = "",
    *,
    best: bool = False,
) -> str:
    """The model card, as the hub shows it; everything in it is read from the run.

    Figures are of the end of training: of the ``best`` checkpoint there are none but its held-out loss.
    """
    network, sampling = pipeline.transformer, config.sampling
    checkpoints = CheckpointStore(run.checkpoints)
    checkpoint = checkpoints.best() if best else checkpoints.latest()
    steps = sampling.num_inference_steps
    height, width = network.grid
    size, dim = network.codebook.shape
    processor = pipeline.image_processor
    parameters = sum(parameter.numel() for parameter in network.parameters())
    grid = f"\n![samples]({SAMPLES})\n" if not best and any(run.samples.glob("step-*.png")) else ""
    classes = ", ".join(pipeline.class_names[:20]) + (", …" if len(pipeline.class_names) > 20 else "")
    return f"""---
{_metadata(config, licence, [] if best else _results(run, config))}
---

# {config.name}

A variational flow matching model in a vector-quantised latent space (Purrception, arXiv 2510.01478), trained with
`purrception`. It generates images of {processor.width}×{processor.height} pixels,
{"under one of " + str(network.num_classes) + " classes" if network.num_classes else "without classes"}.
{grid}
```python
from purrception import PurrceptionPipeline

pipe = PurrceptionPipeline.from_pretrained("hub:OWNER/NAME")
out = pipe(num_images=8, num_inference_steps={steps}, temperature={sampling.temperature!r}, seed=0)
```

With diffusers alone, `{CODE_FILE}` and the files beside the parts make the same images. They are code, which runs
on your machine: read them first.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("OWNER/NAME", trust_remote_code=True)
out = pipe(num_images=8, num_inference_steps={steps}, temperature={sampling.temperature!r}, seed=0)
```

| what | |
|---|---|
| objective | {config.objective.name}, z-loss {config.objective.z_loss:g} |
| network | DiT, depth {config.network.depth}, width {config.network.width}, patch {config.network.patch_size}; \
{config.head.kind} head; {parameters:,} parameters, {dtype}, moving average of the training weights |
| codes | {size} of {dim} dimensions on a grid of {height}×{width} |
| training | {_training(config, checkpoint)} |
| classes | {classes or "none"} |
| data | {_data(config)} |
| tokenizer | {_tokenizer(run, config)} |
| tokenizer SHA-256 | {pipeline.tokenizer.fingerprint} |
| licence of the weights | {licence or "not stated by the author of the run"} |

## Figures

{_held_out_loss(checkpoint) if best else _figures(run)}

## The command that made it

With `{CONFIG}`, which lies beside this card:

```bash
{_command(config)}
```

## Limits

The tokenizer limits the detail that an image can show. If training images were few, samples may repeat them. No
content of the training data was filtered out.
"""


def _metadata(config: RunConfig, licence: str, results: list[Any]) -> str:
    """What the hub reads off a card, as YAML: among it the results of an evaluation, if there are any.

    The text below it is filled in here, where mypy sees it, rather than by ``ModelCard``, which needs a template.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="purrception",
        pipeline_tag=TASK,
        license=licence or None,
        tags=["diffusers", "flow-matching", "image-generation", "vector-quantisation"],
        model_name=config.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _results(run: RunDirectory, config: RunConfig) -> list[Any]:
    """The latest evaluation as the hub's results: one for each metric of each set of images."""
    from huggingface_hub import EvalResult

    reports = _reports(run)
    if not reports:
        return []
    report: dict[str, Any] = read_json(
        reports[-1].with_name(REPORT_JSON), dict[str, Any], "the report of an evaluation"
    )
    reference, features = report["manifest"]["reference"], report["manifest"]["features"]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=config.data.source,
            dataset_name=reference["title"],
            metric_type=metric,
            metric_name=f"{title} ({features['name']} features)",
            metric_value=round(row[metric], 4),
            metric_args={name: row[name] for name in ("guidance", "nfe", "count") if row.get(name) is not None},
        )
        for row in report["rows"]
        for metric, title in METRICS.items()
        if row.get(metric) is not None
    ]


def _reports(run: RunDirectory) -> list[Path]:
    """The reports of the run's evaluations, the latest last."""
    found = run.evaluation.glob(f"[!.]*/{REPORT_MARKDOWN}")
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _last_part(text: str) -> str:
    """An absolute path without its folders, which are private; anything else as it is."""
    return Path(text).name if Path(text).is_absolute() else text


def _command(config: RunConfig) -> str:
    """The command that repeats the training, with placeholders for paths."""
    paths = {
        "data.root": (config.data.root, "IMAGES"),
        "data.tokens": (config.data.tokens, "TOKENS"),
        "tokenizer.path": (config.tokenizer.path, "TOKENIZER"),
        "init_from": (config.init_from, "PIPELINE"),
    }
    elsewhere = {name: word for name, (path, word) in paths.items() if Path(path).is_absolute()}
    return command_line(["train", CONFIG], elsewhere)


def _training(config: RunConfig, checkpoint: Checkpoint | None) -> str:
    training = config.training
    step = training.steps if checkpoint is None else checkpoint.state.step
    return (
        f"{step} of {training.steps} steps of {training.batch_size} images, AdamW, peak learning rate "
        f"{training.learning_rate:g}, label dropout {training.label_dropout:g}, seed {config.seed}"
    )


def _data(config: RunConfig) -> str:
    if config.data.tokens:
        return f"prepared token shards, {Path(config.data.tokens).name}; their images' licence is not recorded"
    data = config.data
    kind = "fashion" if data.class_names == FASHION_CLASSES else data.source
    by = [STYLES[style].attribution for style in data.styles if style in STYLES]
    described = DATA.get(kind, kind).format(root=_last_part(data.root), styles="; ".join(by))
    return f"{described}, at {data.image_size} pixels"


def _tokenizer(run: RunDirectory, config: RunConfig) -> str:
    origin = run.tokenizer / ORIGIN_FILE
    remedy = "remove it to export without the origin of the tokenizer"
    record: dict[str, Any] = (
        read_json(origin, dict[str, Any], "the origin of a tokenizer", remedy) if origin.is_file() else {}
    )
    if "arch" in record:
        arch, source = str(record["arch"]), str(record.get("source", "an unknown source"))
        public = PUBLIC_TOKENIZERS.get(arch)
        licence = TOKENIZER_LICENCES[public.family] if public else "the page of its source states the licence"
        return f"{arch or 'diffusers VQModel'} from {source}, converted; {licence}"
    if config.tokenizer.path:
        return f"an existing one, {Path(config.tokenizer.path).name}; its licence is not recorded"
    return "trained on the same images as part of the run, from random weights"


def _held_out_loss(checkpoint: Checkpoint | None) -> str:
    assert checkpoint is not None
    return f"The checkpoint with the lowest held-out loss, {checkpoint.state.validation_loss:.4f}; not evaluated."


def _figures(run: RunDirectory) -> str:
    """The report of the latest evaluation, with its headings one level lower; else the last held-out loss."""
    if reports := _reports(run):
        lines = reports[-1].read_text(encoding="utf-8").splitlines()
        return "\n".join(f"##{line}" if line.startswith("#") else line for line in lines if "![" not in line)
    measured = [row.get("validation_loss") for row in read_json_lines(run.metrics_file)]
    losses = [loss for loss in measured if isinstance(loss, float) and math.isfinite(loss)]
    held_out = f" Held-out loss at the end: {losses[-1]:.4f}." if losses else ""
    return f"Not evaluated yet.{held_out}"
