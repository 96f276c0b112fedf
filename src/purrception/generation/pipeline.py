"""The finished product: class labels in, images, codes and uncertainty out."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from PIL import Image
from torch import Tensor

from purrception.data import array_to_pil, images_to_tensor, tensor_to_images
from purrception.data.classes import Classes
from purrception.flow import (
    AUTOMATIC,
    Generation,
    ObjectiveConfig,
    SamplingConfig,
    Watcher,
    build_objective,
    no_watcher,
)
from purrception.generation.editing import Editor, free_sites
from purrception.generation.image_processor import ImageProcessor
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.sampler import sample_distributed
from purrception.models import PurrceptionTransformer
from purrception.storage.finite import require_finite
from purrception.storage.hub import local_folder, upload
from purrception.storage.model_folder import check_variant
from purrception.storage.pipeline_folder import check_pipeline, part_variants, read_companions, saving_pipeline
from purrception.tokenizers import VQTokenizer
from purrception.utils.devices import on_device
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar

DEFAULTS = SamplingConfig()
SETTINGS = {setting.name: setting for setting in fields(SamplingConfig)}
"""What a call of the pipeline takes besides what it names."""


F = TypeVar("F", bound=Callable[..., Any])


def _with_settings(call: F) -> F:
    """``call`` with a signature that lists each setting instead of ``**sampling``, for editors and ``help``."""
    signature = inspect.signature(call)
    own = [given for given in signature.parameters.values() if given.kind is not inspect.Parameter.VAR_KEYWORD]
    settings = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=setting.type)
        for name, setting in SETTINGS.items()
    ]
    call.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return call


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

    model_cpu_offload_seq = "transformer->vqvae"

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
        self.companions: dict[str, bytes] = {}
        """Files that describe the weights and travel with them, by name: a card, a recipe, sampling settings."""
        self.objective = build_objective(ObjectiveConfig(name=objective))
        exact = vqvae.dtype == torch.float32  # rounded weights have another hash
        if tokenizer_hash and exact and self.tokenizer.fingerprint != tokenizer_hash:
            raise InputError(
                f"this network was trained on codes of the tokenizer {tokenizer_hash[:12]}…; given is "
                f"{self.tokenizer.fingerprint[:12]}…: use the tokenizer of the run"
            )

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        *,
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        verify: bool = True,
    ) -> Self:
        """Load what :meth:`save_pretrained` wrote, strictly: every tensor must be there, and no other.

        Args:
            source: a folder; or ``hub:owner/name`` on the Hugging Face hub or in its cache.
            torch_dtype: precision of the network and the tokenizer; the codes stay float32.
            device: where to; default: the processor.
            variant: part of the weight files' names.
            revision: branch, tag or commit on the hub.
            verify: compare the files with their SHA-256, where the folder lists them.

        Raises:
            InputError: it is missing, damaged, or its parts do not belong together.
        """
        folder = local_folder(source, revision)
        index = check_pipeline(folder, verify)
        held = part_variants(folder, variant)
        network = PurrceptionTransformer.from_pretrained(
            folder / "transformer", variant=held["transformer"], torch_dtype=torch_dtype
        )
        vqvae = VQTokenizer.load(folder / "vqvae", variant=held["vqvae"], torch_dtype=torch_dtype).vq
        pipeline = cls(network, vqvae, index.objective, index.tokenizer_hash, index.class_names)
        pipeline.companions = read_companions(folder)
        return pipeline if device is None else pipeline.to(device)

    def save_pretrained(self, folder: Path | str, variant: str | None = None) -> None:
        """Write what diffusers expects, weights as safetensors with ``variant`` in their names, and any card."""
        check_variant(variant)
        require_finite(self.transformer.state_dict(), "the network, in the precision in which it is to be saved,")
        with saving_pipeline(Path(folder), self.companions):
            super().save_pretrained(str(folder), safe_serialization=True, variant=variant)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, variant: str | None = None
    ) -> str:
        """Put the pipeline, with its card, on the Hugging Face hub as ``owner/name``; returns its address.

        Without a token that of ``hf auth login`` is used; a model that is not there yet is made.

        Raises:
            InputError: the hub cannot be reached, or does not let you.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant)
            return upload(Path(folder), repo_id, private, token)

    @property
    def class_names(self) -> list[str]:
        """Names by label; empty when unconditional."""
        return list(self.config.class_names)

    @property
    def classes(self) -> Classes:
        """What labels there are, and what texts stand for them."""
        return Classes(self.transformer.num_classes, tuple(self.class_names))

    def labels_of(self, class_labels: Sequence[int | str]) -> list[int]:
        """Labels from labels or class names; raises as :meth:`Classes.label` does."""
        return [self.classes.label(given) for given in class_labels]

    def resolve_labels(self, class_labels: Sequence[int | str] | None, num_images: int | None) -> list[int]:
        """Labels of the classes that are named; without any, of ``num_images`` (default 1) classes in turn."""
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

    @_with_settings
    def __call__(
        self,
        class_labels: Sequence[int | str] | None = None,
        num_images: int | None = None,
        *,
        seed: int = 0,
        batch_size: int = 64,
        **sampling: Any,
    ) -> PurrceptionOutput:
        """Generate one image per label.

        Args:
            class_labels: labels or class names; without any, classes take turns.
            num_images: number of images, when no labels are given; default 1.
            seed: seed of the noise: image i depends on (seed, i) and its label, not on the batch size.
            batch_size: images at a time.
            sampling: settings of :class:`purrception.flow.SamplingConfig`: ``num_inference_steps``, ``solver``,
                ``temperature``, ``guidance_scale``, …

        Raises:
            InputError: an unknown label, solver or setting, a number out of its range, or a setting that the
                objective cannot honour.
        """
        for name in sampling.keys() - SETTINGS:
            now = SamplingConfig.RENAMED.get(name)
            raise InputError(f"{name} is now called {now}") if now else unknown_name("setting", name, SETTINGS)
        labels = self.resolve_labels(class_labels, num_images)
        return self.sample(labels, SamplingConfig(**sampling), seed, batch_size)

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int],
        settings: SamplingConfig,
        seed: int = 0,
        batch_size: int = 64,
        watch: Watcher = no_watcher,
        record: bool = False,
    ) -> PurrceptionOutput:
        """As calling the pipeline, with settings as one object and labels as numbers.

        ``watch`` is told of every evaluation, as ``(t, state, prediction)``, and may raise to stop. ``record``
        makes a CUDA graph of the steps of a batch and replays it for the others.
        """
        wanted, network = torch.tensor(labels), on_device(self.transformer).eval()
        with ProgressBar("sampling", len(labels)) as bar:
            made = sample_distributed(
                network, self.objective, wanted, settings, seed, batch_size, bar.update, watch, record
            )
        return self._decoded(made, labels)

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image | np.ndarray,
        class_label: int | str | None = None,
        num_images: int = 1,
        settings: SamplingConfig = DEFAULTS,
        seed: int = 0,
        strength: float = 1.0,
        margin: int = 0,
        keep_pixels: bool = False,
        watch: Watcher = no_watcher,
        conditioning: str = AUTOMATIC,
    ) -> PurrceptionOutput:
        """Make what is painted anew, in ``num_images`` ways; tokens that it does not touch stay, to the bit.

        A token whose pixels the mask touches is free. The decoder looks beyond the pixels of a token, so that
        pixels near a seam change a little although their tokens do not; ``keep_pixels`` pastes the given ones.
        The tokenizer bounds what comes back: outside the mask are its reconstructions, not the image itself.

        Args:
            image: brought to the model's size as training images are: the centre square, scaled.
            mask: of the image's size: bright, or true in a bool array ``[H, W]``, where it may change.
            class_label: what it should become; left out, whatever fits the rest.
            num_images: variants, each from noise of its own.
            settings: how to sample.
            seed: variant i depends on (seed, i).
            strength: share of what is painted that is forgotten; below 1 its outlines remain.
            margin: tokens around those touched that may change too, which hides seams.
            keep_pixels: paste the pixels of the given image outside the mask.
            watch: see :meth:`sample`.
            conditioning: how given tokens act on the free ones: posterior, resampling or replacement (see
                :mod:`purrception.flow.conditioning`); left out, the best that the model has.

        Raises:
            InputError: a mask of another size or without paint, an unknown class, or settings that the model
                cannot honour.
        """
        painted = self.image_processor.preprocess_mask(mask, image)
        fitted = self.image_processor.preprocess(image)
        free = free_sites(painted, self.transformer.grid, margin)
        indices, labels = self._repeated(fitted, class_label, num_images)
        made = self._editor(settings, seed, watch, conditioning).inpaint(
            indices, free.expand_as(indices), torch.tensor(labels), strength
        )
        out = self._decoded(made, labels)
        if keep_pixels:
            mask_image = Image.fromarray(painted.astype(np.uint8) * 255)
            out.images = [Image.composite(made_image, fitted, mask_image) for made_image in out.images]
        return out

    def vary(
        self,
        image: Image.Image,
        strength: float,
        class_label: int | str | None = None,
        num_images: int = 1,
        settings: SamplingConfig = DEFAULTS,
        seed: int = 0,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Variations of a whole image: it is noised to t = 1 − ``strength`` and sampled from there.

        Of the grid the steps after that time are made, so that a small strength costs few evaluations. Every
        token may change; at strength 1 nothing is left of the original. Arguments are :meth:`inpaint`'s.

        Raises:
            InputError: a strength outside (0, 1]; see also :meth:`inpaint`.
        """
        indices, labels = self._repeated(self.image_processor.preprocess(image), class_label, num_images)
        made = self._editor(settings, seed, watch).vary(indices, torch.tensor(labels), strength)
        return self._decoded(made, labels)

    def refine(
        self,
        out: PurrceptionOutput,
        threshold: float,
        settings: SamplingConfig = DEFAULTS,
        seed: int = 0,
        strength: float = 0.5,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Make anew, from t = 1 − ``strength``, tokens of ``out`` with an entropy above ``threshold`` (nats).

        Tokens below it never change, and an image whose new tokens the model doubts more keeps its old ones.
        Entropy is the model's own doubt at its last evaluation: a token can be certain and wrong, and stays so.

        Raises:
            InputError: a model without a posterior, a negative threshold, or a strength outside (0, 1].
        """
        editor = self._editor(settings, seed, watch)
        made = Generation(out.indices, out.entropy, out.nfe)
        return self._decoded(editor.refine(made, torch.tensor(out.labels), threshold, strength), out.labels)

    def interpolate(
        self,
        seeds: tuple[int, int],
        num_images: int = 8,
        class_label: int | str | None = None,
        settings: SamplingConfig = DEFAULTS,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Images from noise on the way between that of two seeds; the ends are what those seeds draw first.

        Codes are discrete and change one by one: the way is continuous in noise, not in images.

        Raises:
            InputError: fewer than two images; see also :meth:`inpaint`.
        """
        labels = [self.label_or_null(class_label)] * num_images
        made = self._editor(settings, seeds[0], watch).interpolate(torch.tensor(labels), seeds[1])
        return self._decoded(made, labels)

    @property
    def image_processor(self) -> ImageProcessor:
        """Size and channels of this model's images."""
        height, width = (sites * self.tokenizer.downsampling for sites in self.transformer.grid)
        return ImageProcessor(height, width, self.tokenizer.image_channels)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Codes of images, long ``[n, h, w]``; each is brought to the model's size first."""
        arrays = [np.asarray(self.image_processor.preprocess(image)) for image in images]
        pixels = images_to_tensor([array.reshape(*array.shape[:2], -1) for array in arrays])
        on_device(self.vqvae)
        return self.tokenizer.encode(pixels).cpu()

    def decode_means(self, means: Tensor) -> list[Image.Image]:
        """Images of data predictions ``[B, D, h, w]``, standardised as the network's codes are, as they stand."""
        raw, standard = self.tokenizer.codebook, self.transformer.codebook
        scale = (raw - raw.mean(0)).norm() / (standard - standard.mean(0)).norm()  # one deviation for all channels
        shift = raw.mean(0) - scale * standard.mean(0)
        latents = scale * means + shift.view(1, -1, 1, 1)
        on_device(self.vqvae)
        return [array_to_pil(array) for array in tensor_to_images(self.tokenizer.decode_latents(latents))]

    def label_or_null(self, class_label: int | str | None) -> int:
        """The label of a class, or the null class for none."""
        return self.transformer.num_classes if class_label is None else self.labels_of([class_label])[0]

    def _repeated(
        self, fitted: Image.Image, class_label: int | str | None, num_images: int
    ) -> tuple[Tensor, list[int]]:
        """Codes and labels of ``num_images`` variants of one image."""
        if num_images < 1:
            raise InputError(f"at least one image must be asked for; given {num_images}")
        return self.encode([fitted]).repeat(num_images, 1, 1), [self.label_or_null(class_label)] * num_images

    def _editor(
        self, settings: SamplingConfig, seed: int, watch: Watcher, conditioning: str = AUTOMATIC
    ) -> Editor:
        network = on_device(self.transformer).eval()
        return Editor(network, self.objective, settings, seed, watch=watch, conditioning=conditioning)

    def enable_sequential_cpu_offload(self, *arguments: object, **options: object) -> None:
        """Refused: the head multiplies by its weights in chunks, outside of any layer that could be loaded."""
        raise InputError("layers cannot be offloaded one by one; enable_model_cpu_offload() moves whole parts")

    def _decoded(self, made: Generation, labels: Sequence[int]) -> PurrceptionOutput:
        on_device(self.vqvae)
        images = [array_to_pil(array) for array in self.tokenizer.decode_images(made.indices)]
        self.maybe_free_model_hooks()
        return PurrceptionOutput(
            images=images, indices=made.indices, entropy=made.entropy, nfe=made.nfe, labels=list(labels)
        )
