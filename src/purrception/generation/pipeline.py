"""The pipeline: from class labels to images, codes and uncertainty; and editing of images."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import VQModel
from PIL import Image
from torch import Tensor

from purrception.data import array_to_pil, images_to_tensor, tensor_to_images
from purrception.flow import (
    AUTOMATIC,
    Draws,
    Generation,
    SamplingConfig,
    StepEnd,
    Watcher,
    no_watcher,
)
from purrception.generation.base import PurrceptionGenerationPipeline
from purrception.generation.editing import Editor, free_sites
from purrception.generation.image_processor import ImageProcessor
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.portable import portable_code
from purrception.generation.sampler import sample_codes
from purrception.generation.scheduler import PurrceptionScheduler, saved_settings
from purrception.models import PurrceptionTransformer
from purrception.storage.finite import require_finite
from purrception.storage.hub import HubOptions, local_folder, upload
from purrception.storage.model_folder import check_variant
from purrception.storage.pipeline_folder import (
    MODELS,
    check_pipeline,
    part_variants,
    read_companions,
    saving_pipeline,
)
from purrception.tokenizers import VQTokenizer
from purrception.utils.devices import on_device, resolve_device
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar


class PurrceptionPipeline(PurrceptionGenerationPipeline):
    """Generates and edits images with a trained network and its tokenizer.

    Args:
        transformer: the network.
        vqvae: the tokenizer on whose codes it was trained.
        objective: name of the objective it was trained with.
        tokenizer_hash: fingerprint that ``vqvae`` must have; not checked if empty.
        class_names: names by label; none for an unconditional model.
        scheduler: how to sample where a call does not say; by default as :class:`purrception.flow.SamplingConfig`.

    Raises:
        InputError: the network was trained with another tokenizer.
    """

    _optional_components: ClassVar[list[str]] = ["scheduler"]

    def __init__(
        self,
        transformer: PurrceptionTransformer,
        vqvae: VQModel,
        objective: str = "purrception",
        tokenizer_hash: str = "",
        class_names: list[str] | None = None,
        scheduler: PurrceptionScheduler | None = None,
    ) -> None:
        scheduler = scheduler or PurrceptionScheduler()
        super().__init__(transformer, vqvae, scheduler, objective, tokenizer_hash, class_names)
        self.companions: dict[str, bytes] = {}
        """Files that are saved with the weights, by name: a model card, a recipe."""
        self.portable = False
        """Whether code is saved with the weights, with which diffusers opens them without this package."""

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        *,
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        device: torch.device | str | None = None,
        device_map: str | dict[str, torch.device | str | int] | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        transformer: PurrceptionTransformer | None = None,
        vqvae: VQModel | None = None,
        scheduler: PurrceptionScheduler | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        verify: bool = True,
        **others: Any,
    ) -> Self:
        """Load a pipeline that :meth:`save_pretrained` wrote. Missing and additional tensors are errors.

        Args:
            source: a folder, or ``hub:owner/name`` for one on the Hugging Face hub or in its cache; without
                ``hub:`` the hub is never asked.
            dtype: precision of the network and the tokenizer, or of each of them by name; the codebook stays
                float32.
            torch_dtype: the same under its older name.
            device: device to load to; by default the CPU.
            device_map: the same under diffusers' name; or a device for each of ``transformer`` and ``vqvae``; or
                ``balanced``, which puts the tokenizer on another GPU than the network if there is one.
            variant: variant of the weights, a part of their file names.
            use_safetensors: true or left out: nothing else is read.
            transformer: this network instead of the saved one.
            vqvae: this tokenizer; it must be the one that the network was trained with.
            scheduler: this scheduler.
            subfolder: where in the source the pipeline is.
            revision: branch, tag or commit on the hub.
            token: token to read from the hub with.
            cache_dir: folder of downloads from the hub; by default the hub's own cache.
            local_files_only: take what was downloaded before, and never ask the hub.
            force_download: download again.
            verify: compare the files with the SHA-256 digests in the folder, where it has any.
            others: what other pipelines of diffusers take; refused.

        Raises:
            InputError: the pipeline is missing or damaged, its parts do not belong together, or an option has no
                meaning here.
        """
        _refuse("from_pretrained", others)
        if use_safetensors is False:
            raise InputError("weights are read from safetensors alone: leave use_safetensors out")
        dtypes = _by_part(_same("dtype", dtype, "torch_dtype", torch_dtype))
        hub = HubOptions(revision, token, cache_dir, local_files_only, force_download)
        folder = local_folder(source, subfolder or "", hub)
        index = check_pipeline(folder, verify)
        held = part_variants(folder, variant)
        pipeline = cls(
            transformer
            or PurrceptionTransformer.from_pretrained(
                folder / "transformer", variant=held["transformer"], torch_dtype=dtypes["transformer"]
            ),
            vqvae or VQTokenizer.load(folder / "vqvae", variant=held["vqvae"], torch_dtype=dtypes["vqvae"]).vq,
            index.objective,
            index.tokenizer_hash,
            index.class_names,
            scheduler or PurrceptionScheduler.of(saved_settings(folder)),
        )
        pipeline.companions, pipeline.portable = read_companions(folder), index.portable
        return pipeline._placed(_same("device", device, "device_map", device_map))

    def _placed(self, device_map: torch.device | str | dict[str, torch.device | str | int] | None) -> Self:
        """The pipeline on a device, or its models each on one."""
        if device_map is None:
            return self
        if device_map == "balanced":
            count = torch.cuda.device_count()
            if count == 0:
                raise InputError(
                    "device_map 'balanced' shares the models among GPUs, and there is none: use 'cpu'"
                )
            device_map = {"transformer": 0, "vqvae": min(1, count - 1)}
        if not isinstance(device_map, dict):
            return self.to(resolve_device(str(device_map)))
        for part, device in device_map.items():
            if part not in MODELS:
                raise unknown_name("model in device_map", part, MODELS)
            place = resolve_device(f"cuda:{device}" if isinstance(device, int) else str(device))
            getattr(self, part).to(place)
        return self

    def save_pretrained(
        self,
        folder: Path | str,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Write the pipeline as diffusers does, with safetensors weights, and its companion files.

        Args:
            folder: where to.
            safe_serialization: true: weights are written as safetensors alone.
            variant: part of the names of the weight files.
            max_shard_size: the largest weight file, in bytes or as text such as ``5GB``; larger weights are split.
            push_to_hub: also upload the pipeline, see :meth:`push_to_hub`.
            hub: with ``push_to_hub``, its arguments; ``repo_id`` is needed.

        Raises:
            InputError: a weight is not finite, the variant cannot be part of a file name, or an option has no
                meaning here.
        """
        repo_id = hub.pop("repo_id", None)
        if not push_to_hub:
            _refuse("save_pretrained", {"repo_id": repo_id, **hub} if repo_id else hub)
        elif not repo_id:
            raise InputError("push_to_hub=True needs the name on the hub: add repo_id='OWNER/NAME'")
        if safe_serialization is not True:
            raise InputError(
                f"weights are written as safetensors alone; given {safe_serialization!r} as safe_serialization: "
                "leave it out, and give a variant by its name, variant='bf16'"
            )
        check_variant(variant)
        self.default_settings()  # refuses a scheduler that could not be loaded again
        require_finite(self.transformer.state_dict(), "the network, in the precision in which it is to be saved,")
        code = portable_code(self.components) if self.portable else {}
        with saving_pipeline(Path(folder), self.companions, code):
            super().save_pretrained(str(folder), variant=variant, max_shard_size=max_shard_size)
        if push_to_hub:
            self.push_to_hub(repo_id, variant=variant, max_shard_size=max_shard_size, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        variant: str | None = None,
        commit_message: str = "Weights and card by purrception",
        create_pr: bool = False,
        revision: str | None = None,
        safe_serialization: bool = True,
        max_shard_size: int | str | None = None,
        **others: Any,
    ) -> str:
        """Upload the pipeline to the Hugging Face hub as ``owner/name``; returns its URL.

        The repository is created if needed. Without ``token``, the one of ``hf auth login`` is used.

        Args:
            repo_id: ``owner/name``.
            private: whether a new repository is private.
            token: token to write with.
            variant: see :meth:`save_pretrained`, as for ``safe_serialization`` and ``max_shard_size``.
            commit_message: message of the commit.
            create_pr: propose the commit as a pull request.
            revision: branch to commit to.
            safe_serialization: true.
            max_shard_size: the largest weight file.
            others: what other pipelines of diffusers take; refused.

        Raises:
            InputError: the hub cannot be reached, or refuses the upload; or an option has no meaning here.
        """
        _refuse("push_to_hub", others)
        commit: dict[str, Any] = {"commit_message": commit_message, "create_pr": create_pr, "revision": revision}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant, max_shard_size)
            return upload(Path(folder), repo_id, private, token, **commit)

    def _generate(
        self,
        labels: Sequence[int],
        settings: SamplingConfig,
        seed: int,
        batch_size: int,
        watch: Watcher,
        draws_of: Callable[[range], Draws] | None,
        step_end: StepEnd | None,
        record: bool,
    ) -> Generation:
        """The codes of all images, which several processes share."""
        shown = getattr(self, "_progress_bar_config", {})
        with ProgressBar(shown.get("desc", "sampling"), len(labels), silent=bool(shown.get("disable"))) as bar:
            return sample_codes(
                self.transformer,
                self.objective,
                torch.tensor(labels),
                settings,
                seed,
                batch_size,
                on_progress=bar.update,
                watch=watch,
                record=record,
                across_processes=draws_of is None,
                draws_of=draws_of,
                step_end=step_end,
            )

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image | np.ndarray,
        class_label: int | str | None = None,
        num_images: int = 1,
        settings: SamplingConfig | None = None,
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
            settings: how to sample; by default as the scheduler says.
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
        settings: SamplingConfig | None = None,
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
        settings: SamplingConfig | None = None,
        seed: int = 0,
        strength: float = 0.5,
        watch: Watcher = no_watcher,
    ) -> PurrceptionOutput:
        """Sample again, from t = 1 − ``strength``, the tokens with a last entropy above ``threshold``, in nats.

        The other tokens never change, and an image keeps its old tokens if the model is less certain of the new
        ones. Entropy measures the model's own uncertainty: a token that is certain and wrong stays wrong.

        Raises:
            InputError: a model without a posterior, a negative threshold, or a strength outside (0, 1].
        """
        generation = Generation(out.indices, out.entropy, out.nfe, out.path_entropy)
        editor = self._editor(settings, seed, watch)
        return self._decode(editor.refine(generation, torch.tensor(out.labels), threshold, strength), out.labels)

    def interpolate(
        self,
        seeds: tuple[int, int],
        num_images: int = 8,
        class_label: int | str | None = None,
        settings: SamplingConfig | None = None,
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
        self, settings: SamplingConfig | None, seed: int, watch: Watcher, conditioning: str = AUTOMATIC
    ) -> Editor:
        network = on_device(self.transformer).eval()
        settings = settings or self.default_settings()
        return Editor(network, self.objective, settings, seed, watch=watch, conditioning=conditioning)

    def enable_sequential_cpu_offload(self, *arguments: object, **options: object) -> None:
        """Not supported: the head multiplies by its weights in chunks, outside of any movable layer."""
        raise InputError(
            "layers cannot be offloaded one by one: use enable_model_cpu_offload(), which moves whole models"
        )


def _same(name: str, given: Any, alias: str, aliased: Any) -> Any:
    """The value of an argument that has two names."""
    if given is not None and aliased is not None and given != aliased:
        raise InputError(f"{name} and {alias} mean the same; given {given} and {aliased}: leave one out")
    return aliased if given is None else given


def _by_part(dtype: torch.dtype | dict[str, torch.dtype] | None) -> dict[str, torch.dtype | None]:
    """The precision of each model; a dictionary may have a ``default``."""
    given = dtype if isinstance(dtype, dict) else {"default": dtype}
    for part, precision in given.items():
        if part not in (*MODELS, "default"):
            raise unknown_name("model in dtype", part, (*MODELS, "default"))
        if precision is not None and not isinstance(precision, torch.dtype):
            raise InputError(f"dtype is one of torch's, such as torch.bfloat16; given {precision!r}")
    return {part: given.get(part, given.get("default")) for part in MODELS}


def _refuse(method: str, options: dict[str, Any]) -> None:
    """Refuse options that other pipelines of diffusers take."""
    if {"custom_pipeline", "custom_revision", "trust_remote_code"} & options.keys():
        raise InputError(f"no code is ever loaded with a pipeline: leave {min(options)} out")
    if options:
        known = inspect.signature(getattr(PurrceptionPipeline, method)).parameters.values()
        accepted = [option.name for option in known if option.kind is not option.VAR_KEYWORD]
        raise unknown_name(f"option of {method}", min(options), accepted[1:])
