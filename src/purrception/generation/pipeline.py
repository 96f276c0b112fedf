"""The pipeline: from class labels to images, codes and uncertainty; and editing of images."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from diffusers.utils import BaseOutput
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
from purrception.generation.sampler import sample_codes
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
"""The settings of sampling that a call of the pipeline takes."""

F = TypeVar("F", bound=Callable[..., Any])


def _with_settings(call: F) -> F:
    """List every setting in the signature of ``call`` in place of ``**sampling``, for editors and ``help``."""
    signature = inspect.signature(call)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=setting.type)
        for name, setting in SETTINGS.items()
    ]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


@dataclass
class PurrceptionOutput(BaseOutput):
    """Images with their codes, their uncertainty and their cost."""

    images: list[Image.Image]
    """The decoded images."""
    indices: Tensor
    """Codes of the images, long ``[B, h, w]``."""
    entropy: Tensor | None
    """Entropy of the last posterior in nats, float32 ``[B, h, w]``; ``None`` without a posterior."""
    nfe: int
    """Network evaluations per image."""
    labels: list[int]
    """Class labels of the images; the number of classes stands for the null class."""


class PurrceptionPipeline(DiffusionPipeline):
    """Generates and edits images with a trained network and its tokenizer.

    Args:
        transformer: the network.
        vqvae: the tokenizer on whose codes it was trained.
        objective: name of the objective it was trained with.
        tokenizer_hash: fingerprint that ``vqvae`` must have; not checked if empty.
        class_names: names by label; none for an unconditional model.

    Raises:
        InputError: the network was trained with another tokenizer.
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
        """Files that are saved with the weights, by name: a model card, a recipe, sampling settings."""
        self.objective = build_objective(ObjectiveConfig(name=objective))
        exact = vqvae.dtype == torch.float32  # rounded weights have a different hash
        if tokenizer_hash and exact and self.tokenizer.fingerprint != tokenizer_hash:
            raise InputError(
                f"this network was trained on codes of the tokenizer {tokenizer_hash[:12]}…; given "
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
        """Load a pipeline that :meth:`save_pretrained` wrote. Missing and additional tensors are errors.

        Args:
            source: a folder, or ``hub:owner/name`` for one on the Hugging Face hub or in its cache.
            torch_dtype: precision of the network and the tokenizer; the codebook stays float32.
            device: device to load to; by default the CPU.
            variant: variant of the weights, a part of their file names.
            revision: branch, tag or commit on the hub.
            verify: compare the files with the SHA-256 digests in the folder, where it has any.

        Raises:
            InputError: the pipeline is missing or damaged, or its parts do not belong together.
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
        """Write the pipeline as diffusers does, with safetensors weights, and its companion files.

        Args:
            folder: where to.
            variant: part of the names of the weight files.

        Raises:
            InputError: a weight is not finite, or the variant cannot be part of a file name.
        """
        check_variant(variant)
        require_finite(self.transformer.state_dict(), "the network, in the precision in which it is to be saved,")
        with saving_pipeline(Path(folder), self.companions):
            super().save_pretrained(str(folder), safe_serialization=True, variant=variant)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, variant: str | None = None
    ) -> str:
        """Upload the pipeline to the Hugging Face hub as ``owner/name``; returns its URL.

        The repository is created if needed. Without ``token``, the one of ``hf auth login`` is used.

        Raises:
            InputError: the hub cannot be reached, or refuses the upload.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant)
            return upload(Path(folder), repo_id, private, token)

    @property
    def class_names(self) -> list[str]:
        """Class names by label; empty for an unconditional model."""
        return list(self.config.class_names)

    @property
    def classes(self) -> Classes:
        """The labels of the classes, and their names."""
        return Classes(self.transformer.num_classes, tuple(self.class_names))

    def resolve_labels(self, class_labels: Sequence[int | str] | None, num_images: int | None) -> list[int]:
        """One label per image: those of ``class_labels``, or of ``num_images`` (default 1) classes in turn.

        Raises:
            InputError: an unknown class, no image, or a ``num_images`` that differs from the number of labels.
        """
        if class_labels is not None:
            labels = [self.classes.label(label) for label in class_labels]
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
        """Generate one image per class label.

        Args:
            class_labels: labels or names of classes; without them, the classes take turns.
            num_images: number of images where no class labels are given; 1 by default.
            seed: seed of the noise. Image i depends on (seed, i) and its label, not on the batch size.
            batch_size: images at a time.
            sampling: settings of :class:`purrception.flow.SamplingConfig`: ``num_inference_steps``, ``solver``,
                ``temperature``, ``guidance_scale``, …

        Raises:
            InputError: an unknown label, solver or setting, a number out of its range, or a setting that the
                objective does not support.
        """
        for name in sampling.keys() - SETTINGS:
            if name in SamplingConfig.RENAMED:
                raise InputError(f"{name} is now called {SamplingConfig.RENAMED[name]}")
            raise unknown_name("setting", name, SETTINGS)
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
        """Generate one image per label, as a call of the pipeline does, with the settings as one object.

        Args:
            labels: a number for each image; the number of classes stands for the null class.
            settings: how to sample.
            seed: seed of the noise.
            batch_size: images at a time.
            watch: called at every evaluation with ``(t, state, prediction)``; it may raise an exception to stop.
            record: record the steps of a batch as a CUDA graph and replay it for the others.
        """
        network = on_device(self.transformer).eval()
        with ProgressBar("sampling", len(labels)) as bar:
            generation = sample_codes(
                network,
                self.objective,
                torch.tensor(labels),
                settings,
                seed,
                batch_size,
                on_progress=bar.update,
                watch=watch,
                record=record,
                across_processes=True,
            )
        return self._decode(generation, labels)

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
        """Sample the masked part of an image again, in ``num_images`` variants; all other tokens keep their codes.

        A token is free if the mask touches any of its pixels. Outside the mask the images show the tokenizer's
        reconstruction, not the image itself, and pixels near a seam change a little, because the decoder looks
        beyond the pixels of a token; ``keep_pixels`` pastes the pixels of the image there.

        Args:
            image: preprocessed like training images: its centre square, scaled.
            mask: of the size of the image; bright, or true in a bool array ``[H, W]``, where it may change.
            class_label: label or name of the class; without it, the null class.
            num_images: number of variants.
            settings: how to sample.
            seed: seed of the noise; variant i depends on (seed, i).
            strength: share of the masked part that is forgotten; below 1 its outlines remain.
            margin: number of tokens around the masked ones that may change too, which hides seams.
            keep_pixels: outside the mask, paste the pixels of the preprocessed image.
            watch: see :meth:`sample`.
            conditioning: how the known tokens act on the free ones: posterior, resampling or replacement (see
                :mod:`purrception.flow.conditioning`); by default the best that the objective has.

        Raises:
            InputError: a mask of another size or without paint, an unknown class, or settings that the model does
                not support.
        """
        painted = self.image_processor.preprocess_mask(mask, image)
        image = self.image_processor.preprocess(image)
        indices, labels = self._encode_repeated(image, class_label, num_images)
        free = free_sites(painted, self.transformer.grid, margin).expand_as(indices)
        editor = self._editor(settings, seed, watch, conditioning)
        out = self._decode(editor.inpaint(indices, free, torch.tensor(labels), strength), labels)
        if keep_pixels:
            pasted = Image.fromarray(~painted)
            for variant in out.images:
                variant.paste(image, mask=pasted)
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
        """Variations of a whole image, which is noised to t = 1 − ``strength`` and sampled from there.

        Only the timesteps after that time are used, so a small strength costs few evaluations. Every token may
        change; at strength 1 nothing of the original is left. The other arguments are those of :meth:`inpaint`.

        Raises:
            InputError: a strength outside (0, 1]; see also :meth:`inpaint`.
        """
        indices, labels = self._encode_repeated(self.image_processor.preprocess(image), class_label, num_images)
        editor = self._editor(settings, seed, watch)
        return self._decode(editor.vary(indices, torch.tensor(labels), strength), labels)

    def refine(
        self,
        out: PurrceptionOutput,
        threshold: float,
        settings: SamplingConfig = DEFAULTS,
        seed: int = 0,
        strength: float = 0.5,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Sample tokens of ``out`` with an entropy above ``threshold`` (nats) again, from t = 1 − ``strength``.

        The other tokens never change, and an image keeps its old tokens if the model is less certain of the new
        ones. Entropy measures the model's own uncertainty: a token that is certain and wrong stays wrong.

        Raises:
            InputError: a model without a posterior, a negative threshold, or a strength outside (0, 1].
        """
        generation = Generation(out.indices, out.entropy, out.nfe)
        editor = self._editor(settings, seed, watch)
        return self._decode(editor.refine(generation, torch.tensor(out.labels), threshold, strength), out.labels)

    def interpolate(
        self,
        seeds: tuple[int, int],
        num_images: int = 8,
        class_label: int | str | None = None,
        settings: SamplingConfig = DEFAULTS,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Images from noise between that of two seeds; the first and the last are image 0 of each seed.

        The noise changes continuously, the images do not: codes are discrete and change one by one.

        Raises:
            InputError: fewer than two images; see also :meth:`inpaint`.
        """
        labels = [self.label_or_null(class_label)] * num_images
        editor = self._editor(settings, seeds[0], watch)
        return self._decode(editor.interpolate(torch.tensor(labels), seeds[1]), labels)

    @property
    def image_processor(self) -> ImageProcessor:
        """Preprocessing to the size and channels of this model's images."""
        height, width = (sites * self.tokenizer.downsampling for sites in self.transformer.grid)
        return ImageProcessor(height, width, self.tokenizer.image_channels)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Codes of images, long ``[n, h, w]``; each is preprocessed to the model's size first."""
        arrays = [np.asarray(self.image_processor.preprocess(image)) for image in images]
        pixels = images_to_tensor([array.reshape(*array.shape[:2], -1) for array in arrays])
        on_device(self.vqvae)
        return self.tokenizer.encode(pixels).cpu()

    def decode_means(self, means: Tensor) -> list[Image.Image]:
        """Decode data predictions ``[B, D, h, w]``, standardised like the network's codes, unquantised."""
        raw, standard = self.tokenizer.codebook, self.transformer.codebook
        # One standard deviation for all channels.
        scale = (raw - raw.mean(0)).norm() / (standard - standard.mean(0)).norm()
        shift = raw.mean(0) - scale * standard.mean(0)
        latents = scale * means + shift.view(1, -1, 1, 1)
        on_device(self.vqvae)
        return [array_to_pil(array) for array in tensor_to_images(self.tokenizer.decode_latents(latents))]

    def label_or_null(self, class_label: int | str | None) -> int:
        """The label of a class, or of the null class for ``None``."""
        return self.transformer.num_classes if class_label is None else self.classes.label(class_label)

    def _encode_repeated(
        self, image: Image.Image, class_label: int | str | None, num_images: int
    ) -> tuple[Tensor, list[int]]:
        """Codes and labels of ``num_images`` variants of one image."""
        if num_images < 1:
            raise InputError(f"at least one image must be asked for; given {num_images}")
        return self.encode([image]).repeat(num_images, 1, 1), [self.label_or_null(class_label)] * num_images

    def _editor(
        self, settings: SamplingConfig, seed: int, watch: Watcher, conditioning: str = AUTOMATIC
    ) -> Editor:
        network = on_device(self.transformer).eval()
        return Editor(network, self.objective, settings, seed, watch=watch, conditioning=conditioning)

    def enable_sequential_cpu_offload(self, *arguments: object, **options: object) -> None:
        """Not supported: the head multiplies by its weights in chunks, outside of any movable layer."""
        raise InputError(
            "layers cannot be offloaded one by one: use enable_model_cpu_offload(), which moves whole models"
        )

    def _decode(self, generation: Generation, labels: Sequence[int]) -> PurrceptionOutput:
        on_device(self.vqvae)
        images = [array_to_pil(array) for array in self.tokenizer.decode_images(generation.indices)]
        self.maybe_free_model_hooks()
        return PurrceptionOutput(
            images=images,
            indices=generation.indices,
            entropy=generation.entropy,
            nfe=generation.nfe,
            labels=list(labels),
        )
