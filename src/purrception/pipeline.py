"""The finished product: class labels in, images, codes and uncertainty out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import DiffusionPipeline, VQModel
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor

from purrception.data import array_to_pil
from purrception.errors import InputError, unknown_name
from purrception.flow import ObjectiveConfig, SamplingConfig, build_objective
from purrception.models import PurrceptionTransformer
from purrception.progress import ProgressBar
from purrception.sampling import sample_together
from purrception.tokenizers import VQTokenizer

INDEX_FILE = "model_index.json"


@dataclass
class PurrceptionOutput(BaseOutput):
    """Images and what the model thought while it made them."""

    images: list[Image.Image]
    """Decoded images."""
    indices: Tensor
    """Codes, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the last posterior in nats, float32 ``[B, h, w]``; none for an objective without one."""
    nfe: int
    """Network evaluations per image."""


class PurrceptionPipeline(DiffusionPipeline):
    """Samples images from a trained network and its tokenizer.

    Args:
        transformer: the network.
        vqvae: the tokenizer whose codes it learned.
        objective: name of the objective it was trained with.
        tokenizer_hash: fingerprint that ``vqvae`` must have.
        class_names: names by label; none when unconditional.

    Raises:
        InputError: the tokenizer is another one than the network was trained with.
    """

    def __init__(
        self,
        transformer: PurrceptionTransformer,
        vqvae: VQModel,
        objective: str = "purrception",
        tokenizer_hash: str = "",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vqvae=vqvae)
        self.register_to_config(objective=objective, tokenizer_hash=tokenizer_hash, class_names=class_names or [])
        self.tokenizer = VQTokenizer(vqvae)
        self.objective = build_objective(ObjectiveConfig(name=objective))
        exact = vqvae.dtype == torch.float32  # rounded weights have another hash
        if tokenizer_hash and exact and self.tokenizer.fingerprint != tokenizer_hash:
            raise InputError(
                f"this network was trained on codes of the tokenizer {tokenizer_hash[:12]}…; given is "
                f"{self.tokenizer.fingerprint[:12]}…: use the tokenizer of the run"
            )

    @classmethod
    def from_pretrained(cls, folder: Path | str, **options: Any) -> Self:
        """Load a folder that :meth:`save_pretrained` wrote, strictly.

        Raises:
            InputError: it is missing, damaged, or its parts do not belong together.
        """
        if Path(folder).exists() and not (Path(folder) / INDEX_FILE).is_file():
            raise InputError(f"no pipeline in {folder}: {INDEX_FILE} is missing")
        diffusers_logging.disable_progress_bar()  # two parts load at once; a bar only flickers
        try:
            return super().from_pretrained(str(folder), low_cpu_mem_usage=False, **options)
        except InputError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"cannot load the pipeline in {folder}: {reason}") from error

    @property
    def class_names(self) -> list[str]:
        """Names by label; empty when unconditional."""
        return list(self.config.class_names)

    def labels_of(self, class_labels: Sequence[int | str]) -> list[int]:
        """Labels from labels or class names.

        Raises:
            InputError: a label out of range, an unknown name, or labels for an unconditional model.
        """
        classes = self.transformer.num_classes
        labels = []
        for given in class_labels:
            if classes == 0:
                raise InputError(f"this model has no classes; given the class {given!r}")
            if isinstance(given, str) and given in self.class_names:
                labels.append(self.class_names.index(given))
            elif isinstance(given, str) and not given.isdecimal():
                raise unknown_name("class", given, self.class_names)
            elif 0 <= int(given) < classes:
                labels.append(int(given))
            else:
                raise InputError(f"class labels are 0 to {classes - 1}; given {given}")
        return labels

    def __call__(
        self,
        class_labels: Sequence[int | str] | None = None,
        num_images: int | None = None,
        num_inference_steps: int = 50,
        solver: str = "euler",
        grid: str = "uniform",
        temperature: float | str = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_space: Literal["logits", "mean"] = "logits",
        last_step: str = "nearest",
        strength: float = 0.5,
        tolerance: float = 1e-4,
        seed: int = 0,
        batch_size: int = 64,
    ) -> PurrceptionOutput:
        """Generate one image per label.

        Image i depends on (seed, i) and its label, not on the batch size.

        Args:
            class_labels: labels or class names; left out, classes take turns.
            num_images: how many images, when no labels are given; default 1.
            num_inference_steps: intervals of the time grid.
            solver: how to integrate; see :class:`SamplingConfig`, as for what follows.
            grid: where the steps lie.
            temperature: τ of the posterior, or a schedule.
            top_k: codes kept per site; 0: all.
            top_p: probability kept per site; 1: all.
            guidance_scale: strength of the class.
            guidance_interval: times between which guidance holds.
            guidance_space: where guidance acts.
            last_step: how codes are chosen at t = 1.
            strength: noise drawn anew by the stochastic solver.
            tolerance: of a step of dopri5.
            seed: of the noise.
            batch_size: images at a time.

        Raises:
            InputError: an unknown label or solver, a number out of its range, or a setting that the objective
                cannot honour.
        """
        settings = SamplingConfig(
            num_inference_steps, solver, grid, temperature, top_k, top_p,
            guidance_scale, guidance_interval, guidance_space, last_step, strength, tolerance,
        )  # fmt: skip
        return self.sample(self._resolve_labels(class_labels, num_images), settings, seed, batch_size)

    @torch.no_grad()
    def sample(
        self, labels: Sequence[int], settings: SamplingConfig, seed: int = 0, batch_size: int = 64
    ) -> PurrceptionOutput:
        """As calling the pipeline, with settings as one object and labels as numbers."""
        if batch_size < 1:
            raise InputError(f"batch_size is at least 1; given {batch_size}")
        wanted = torch.tensor(labels)
        network = self.transformer.eval()
        with ProgressBar("sampling", len(labels)) as bar:
            made = sample_together(
                network, self.objective, wanted, settings, seed, batch_size, on_progress=bar.update
            )
        images = [array_to_pil(array) for array in self.tokenizer.decode_images(made.indices)]
        return PurrceptionOutput(images=images, indices=made.indices, entropy=made.entropy, nfe=made.nfe)

    def _resolve_labels(self, class_labels: Sequence[int | str] | None, num_images: int | None) -> list[int]:
        if class_labels is not None:
            labels = self.labels_of(class_labels)
            if num_images not in (None, len(labels)):
                raise InputError(f"given {len(labels)} class labels but num_images {num_images}")
        else:
            count = 1 if num_images is None else num_images
            labels = [number % max(self.transformer.num_classes, 1) for number in range(count)]
        if not labels:
            raise InputError("at least one image must be asked for; given none")
        return labels
