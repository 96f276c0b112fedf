"""``purrception export``. What is heavy is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purrception.cli.parsing import parse, target_of
from purrception.cli.verbs import Verb
from purrception.training import RunDirectory
from purrception.utils.text import command_line


@dataclass(frozen=True)
class ExportOptions:
    """What ``purrception export`` takes."""

    out: str = ""
    """Folder for the pipeline. Default: pipelines/NAME."""
    checkpoint: Literal["last", "best"] = "last"
    """Weights at the end of training, or of the checkpoint with the lowest held-out loss."""
    dtype: str = "float32"
    """Precision of the network's weights: float32, bfloat16 or float16; the tokenizer stays float32."""
    variant: str = ""
    """Variant in the names of the weight files, such as bf16; loading must then name it too."""
    licence: str = ""
    """Licence of the weights, for the card: an identifier of the hub such as apache-2.0."""
    push: str = ""
    """Also upload it to the Hugging Face hub, as OWNER/NAME."""
    private: bool = False
    """Whether a new model on the hub is private."""


def export(verb: Verb, arguments: list[str]) -> None:
    """Write averaged weights, tokenizer, card and the code for diffusers into one folder."""
    target, rest = target_of(verb, arguments)
    options = parse(ExportOptions, verb, rest)
    RunDirectory.open(target)
    from purrception.experiment.export import export_run
    from purrception.storage import unused_folder

    folder = unused_folder(Path(options.out or f"pipelines/{Path(target).resolve().name}"))
    pipeline = export_run(
        target, folder, options.dtype, options.variant, options.licence, best=options.checkpoint == "best"
    )
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    following = command_line(["sample", str(folder)])
    print(f"{size / 1e6:.1f} MB of weights and a model card: {folder}  (next: {following})")
    if options.push:
        address = pipeline.push_to_hub(options.push, private=options.private, variant=options.variant or None)
        print(f"on the hub: {address}")
