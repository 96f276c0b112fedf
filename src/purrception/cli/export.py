"""``purrception export RUN``. Heavy imports wait until the verb needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.cli.parsing import Verb, parse, target_of
from purrception.utils.terminal import command_line


@dataclass(frozen=True)
class ExportOptions:
    """What ``purrception export`` takes."""

    out: str = ""
    """Folder for the pipeline; default: pipelines/NAME."""
    dtype: str = "float32"
    """Of the network's weights: float32, bfloat16 or float16; the tokenizer stays float32."""
    variant: str = ""
    """Part of the weight files' names, such as bf16; loading then names it too."""
    licence: str = ""
    """Of the weights, for the card: an identifier of the hub such as apache-2.0."""
    push: str = ""
    """Also put it on the Hugging Face hub, as OWNER/NAME."""
    private: bool = False
    """Whether a new model on the hub is private."""


def export(arguments: list[str]) -> None:
    """``purrception export``: averaged weights, tokenizer and card in one folder."""
    target, rest = target_of(EXPORT, arguments)
    options = parse(ExportOptions, EXPORT, rest)
    from purrception.experiment.export import export_run
    from purrception.storage import unused_folder

    folder = unused_folder(Path(options.out or f"pipelines/{Path(target).resolve().name}"))
    pipeline = export_run(target, folder, options.dtype, options.variant, options.licence)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    following = command_line(["sample", str(folder)])
    print(f"{size / 1e6:.1f} MB of weights and a model card: {folder}  (next: {following})")
    if options.push:
        address = pipeline.push_to_hub(options.push, private=options.private, variant=options.variant or None)
        print(f"on the hub: {address}")


EXPORT = Verb(
    export,
    "export RUN [--key value …]",
    "One folder that travels: averaged weights, the tokenizer, and a model card filled from the run.",
    "purrception export runs/digits --out pipelines/digits --licence apache-2.0",
)
