"""The pipeline: from class labels to images, codes and uncertainty; and editing of images."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from PIL import Image
from torch import Tensor

from purrception.data import array_to_pil, images_to_tensor, tensor_to_images
from purrception.data.classes import Classes
from purrception.flow import (
    AUTOMATIC,
    Draws,
    GaussianObjective,
    Generation,
    ObjectiveConfig,
    Prediction,
    SamplingConfig,
    StepEnd,
    Watcher,
    build_objective,
    no_watcher,
)
from purrception.generation.editing import Editor, free_sites
from purrception.generation.image_processor import ImageProcessor
from purrception.generation.outputs import OUTPUT_TYPES, OutputType, PurrceptionOutput
from purrception.generation.sampler import GeneratorDraws, GivenStart, KeyedDraws, sample_codes
from purrception.generation.scheduler import SETTINGS, PurrceptionScheduler, saved_settings, with_settings
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

ClassLabels = int | str | Sequence[int | str] | Tensor
"""A class, by its label or name, or several."""
Generators = torch.Generator | list[torch.Generator]
"""A source of random numbers for all images, or one for each."""
OnStepEnd = Callable[[Any, int, float, dict[str, Tensor | None]], Mapping[str, Tensor] | None]
"""diffusers' callback: (pipeline, step, t, the tensors that were asked for) → the tensors to go on with."""


class PurrceptionPipeline(DiffusionPipeline):
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

    model_cpu_offload_seq = "transformer->vqvae"
    _optional_components: ClassVar[list[str]] = ["scheduler"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "mean", "entropy"]
    _interrupt = False

    def __init__(
        self,
        transformer: PurrceptionTransformer,
        vqvae: VQModel,
        objective: str = "purrception",
        tokenizer_hash: str = "",
        class_names: list[str] | None = None,
        scheduler: PurrceptionScheduler | None = None,
    ) -> None:
        super().__init__()
        scheduler = scheduler or PurrceptionScheduler()
        self.register_modules(transformer=transformer, vqvae=vqvae, scheduler=scheduler)
        self.register_to_config(objective=objective, tokenizer_hash=tokenizer_hash, class_names=class_names or [])
        self.tokenizer = VQTokenizer(vqvae)
        self.companions: dict[str, bytes] = {}
        """Files that are saved with the weights, by name: a model card, a recipe."""
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
        pipeline.companions = read_companions(folder)
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
        if not safe_serialization:
            raise InputError("weights are written as safetensors alone: leave safe_serialization out")
        check_variant(variant)
        self.default_settings()  # refuses a scheduler that could not be loaded again
        require_finite(self.transformer.state_dict(), "the network, in the precision in which it is to be saved,")
        with saving_pipeline(Path(folder), self.companions):
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

    def default_settings(self, **sampling: Any) -> SamplingConfig:
        """The settings of the scheduler, with those of ``sampling`` that are not ``None`` in their place.

        Raises:
            InputError: an unknown setting or a number out of its range, or a scheduler of another kind.
        """
        if not isinstance(self.scheduler, PurrceptionScheduler):
            raise InputError(
                f"a pipeline's scheduler is a PurrceptionScheduler; given {type(self.scheduler).__name__}: choose "
                "a solver by PurrceptionScheduler.from_config(pipe.scheduler.config, solver='heun')"
            )
        for name in sampling.keys() - SETTINGS:
            if name in SamplingConfig.RENAMED:
                raise InputError(f"{name} is now called {SamplingConfig.RENAMED[name]}")
            raise unknown_name("setting", name, SETTINGS)
        given = {name: value for name, value in sampling.items() if value is not None}
        return replace(self.scheduler.settings, **given)

    @property
    def class_names(self) -> list[str]:
        """Class names by label; empty for an unconditional model."""
        return list(self.config.class_names)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(D, h, w) of a state."""
        return (self.transformer.codebook.shape[1], *self.transformer.grid)

    @property
    def classes(self) -> Classes:
        """The labels of the classes, and their names."""
        return Classes(self.transformer.num_classes, tuple(self.class_names))

    def resolve_labels(self, class_labels: ClassLabels | None, num_images: int | None = None) -> list[int]:
        """One label per image: those of ``class_labels``, or of ``num_images`` (default 1) classes in turn.

        Raises:
            InputError: an unknown class, no image, or a ``num_images`` that differs from the number of labels.
        """
        if class_labels is not None:
            if isinstance(class_labels, Tensor | np.ndarray):
                class_labels = class_labels.tolist()
            several = [class_labels] if isinstance(class_labels, int | str) else class_labels
            labels = [self.classes.label(label) for label in several]
            if num_images not in (None, len(labels)):
                raise InputError(f"given {len(labels)} class labels but num_images {num_images}")
        else:
            count = 1 if num_images is None else num_images
            labels = [number % max(self.transformer.num_classes, 1) for number in range(count)]
        if not labels:
            raise InputError("at least one image must be asked for; given none")
        return labels

    @partial(with_settings, optional=True)
    def __call__(
        self,
        class_labels: ClassLabels | None = None,
        num_images: int | None = None,
        *,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        seed: int | None = None,
        latents: Tensor | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        batch_size: int = 64,
        **sampling: Any,
    ) -> PurrceptionOutput | tuple[Any, ...]:
        """Generate one image per class label.

        Args:
            class_labels: labels or names of classes, or one; without them, the classes take turns.
            num_images: number of images where no class labels are given; 1 by default.
            num_images_per_prompt: number of images for each label.
            generator: where all random numbers come from, drawn batch by batch; or a list, one for each image.
            seed: seed of the noise, 0 by default and in place of a generator. Image i depends on (seed, i) and its
                label, not on the batch size.
            latents: the noise to start from, ``[B, D, h, w]``; for models whose path starts from noise.
            output_type: ``pil``; ``np``, float32 ``[B, H, W, C]`` in [0, 1]; ``pt``, float32 ``[B, C, H, W]`` in
                [0, 1]; or ``latent``, embeddings of the codes ``[B, D, h, w]``, which the tokenizer decodes.
            return_dict: return a :class:`PurrceptionOutput`, or else the tuple of its fields, images first.
            callback_on_step_end: called as ``callback(pipe, step, t, tensors)`` after every evaluation of every
                batch. It may return ``{"latents": …}`` to go on from, and set ``pipe._interrupt`` to stop: the
                images are then decoded from where they are.
            callback_on_step_end_tensor_inputs: which tensors it is given: ``latents``, the state (for dfm the
                codes, −1 where masked); ``mean``, the prediction of the data; ``entropy`` of the posterior.
            batch_size: images at a time.
            sampling: settings of :class:`purrception.flow.SamplingConfig`: ``num_inference_steps``, ``solver``,
                ``temperature``, ``guidance_scale``, …; those left out are the scheduler's.

        Raises:
            InputError: an unknown label, solver or setting, a number out of its range, or a setting that the
                objective does not support.
        """
        settings = self.default_settings(**sampling)
        if num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt is at least 1; given {num_images_per_prompt}")
        labels = [
            label for label in self.resolve_labels(class_labels, num_images) for _ in range(num_images_per_prompt)
        ]
        step_end = None
        if callback_on_step_end is not None:
            # diffusers' own callbacks say themselves what they need
            names = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
            step_end = self._step_end(callback_on_step_end, names)
        draws_of = self._draws_of(len(labels), generator, seed, latents)
        out = self.sample(
            labels, settings, seed or 0, batch_size, draws_of=draws_of, step_end=step_end, output_type=output_type
        )
        return out if return_dict else out.to_tuple()

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int],
        settings: SamplingConfig,
        seed: int = 0,
        batch_size: int = 64,
        watch: Watcher = no_watcher,
        record: bool = False,
        draws_of: Callable[[range], Draws] | None = None,
        step_end: StepEnd | None = None,
        output_type: OutputType = "pil",
    ) -> PurrceptionOutput:
        """Generate one image per label, as a call of the pipeline does, with the settings as one object.

        Args:
            labels: a number for each image; the number of classes stands for the null class.
            settings: how to sample.
            seed: seed of the noise.
            batch_size: images at a time.
            watch: called at every evaluation with ``(t, state, prediction)``; it may raise an exception to stop.
            record: record the steps of a batch as a CUDA graph and replay it for the others.
            draws_of: the random numbers of the images of these numbers, in place of those of the seed; then this
                process makes all images itself.
            step_end: called after every step; see :class:`purrception.flow.Objective`.
            output_type: see :meth:`__call__`.
        """
        if output_type not in OUTPUT_TYPES:
            raise unknown_name("output_type", str(output_type), OUTPUT_TYPES)
        network = on_device(self.transformer).eval()
        shown = getattr(self, "_progress_bar_config", {})
        with ProgressBar(shown.get("desc", "sampling"), len(labels), silent=bool(shown.get("disable"))) as bar:
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
                across_processes=draws_of is None,
                draws_of=draws_of,
                step_end=step_end,
            )
        return self._decode(generation, labels, output_type)

    @torch.no_grad()
    def predict(
        self, latents: Tensor, timestep: Tensor | float, class_labels: ClassLabels, **sampling: Any
    ) -> Prediction:
        """The model's prediction of the data at a state: what a loop of one's own gives to the scheduler's step.

        Args:
            latents: the state z_t, ``[B, D, h, w]``.
            timestep: t in [0, 1].
            class_labels: a class for each state, or one for all; the number of classes stands for the null class.
            sampling: temperature, guidance and the like, as in a call of the pipeline.

        Returns:
            The mean ``[B, D, h, w]`` and, where the model has one, the posterior that it is the mean of.

        Raises:
            InputError: settings that the model does not support, or a model without an ODE.
        """
        if not isinstance(self.objective, GaussianObjective):
            raise InputError(
                f"a {self.config.objective!r} model unmasks codes: it has no state z_t; call the pipeline"
            )
        settings = self.default_settings(**sampling)
        network = on_device(self.transformer).eval()
        self.objective.check(network, settings)
        null = network.num_classes
        several = [class_labels] if isinstance(class_labels, int | str) else list(class_labels)
        labels = [null if label == null else self.classes.label(label) for label in several]
        t = float(timestep)
        of_state = torch.tensor(labels, device=latents.device).expand(len(latents))
        with network.reduced_precision():
            return self.objective.predict(network, latents, t, of_state, settings.options_at(t))

    @property
    def interrupt(self) -> bool:
        """Whether sampling is to stop at the end of the step."""
        return self._interrupt

    def _draws_of(
        self, count: int, generator: Generators | None, seed: int | None, latents: Tensor | None
    ) -> Callable[[range], Draws] | None:
        """The random numbers of a call; ``None`` if they are those of the seed alone."""
        if generator is not None and seed is not None:
            raise InputError("give a generator or a seed, not both")
        if isinstance(generator, list) and len(generator) != count:
            raise InputError(f"a list of generators has one for each image; given {len(generator)} for {count}")
        network = self.transformer
        shape = (count, *self.latent_shape)
        if latents is not None and not isinstance(self.objective, GaussianObjective):
            raise InputError(
                f"a {self.config.objective!r} model starts from masks, not from noise: leave latents out"
            )
        if latents is not None and latents.shape != shape:
            raise InputError(f"latents have the shape {list(shape)} here; given {list(latents.shape)}")
        if generator is None and latents is None:
            return None

        def draws_of(numbers: range) -> Draws:
            draws: Draws = KeyedDraws(seed or 0, numbers, network)
            if isinstance(generator, list):
                draws = GeneratorDraws(generator[numbers.start : numbers.stop], len(numbers), network)
            elif generator is not None:
                draws = GeneratorDraws(generator, len(numbers), network)
            if latents is not None:
                start = latents[numbers.start : numbers.stop].to(network.device, torch.float32)
                draws = GivenStart(start, draws)
            return draws

        return draws_of

    def _step_end(self, callback: OnStepEnd, names: Sequence[str]) -> StepEnd:
        """diffusers' callback as the objective calls it."""
        for name in names:
            if name not in self._callback_tensor_inputs:
                raise unknown_name("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        self._interrupt = False

        def step_end(step: int, t: float, latents: Tensor, prediction: Prediction) -> tuple[Tensor, bool]:
            entropy = None if prediction.posterior is None else prediction.posterior.entropy
            tensors = {"latents": latents, "mean": prediction.mean, "entropy": entropy}
            heard = callback(self, step, t, {name: tensors[name] for name in names}) or {}
            return heard.get("latents", latents), not self.interrupt

        return step_end

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

    def _decode(
        self, generation: Generation, labels: Sequence[int], output_type: OutputType = "pil"
    ) -> PurrceptionOutput:
        on_device(self.vqvae)
        images: list[Image.Image] | np.ndarray | Tensor
        if output_type == "pil":
            images = [array_to_pil(array) for array in self.tokenizer.decode_images(generation.indices)]
        elif output_type == "latent":
            images = self.tokenizer.embed(generation.indices)
        else:
            images = (self.tokenizer.decode(generation.indices) / 2 + 0.5).clamp(0, 1)
            images = images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()
        self.maybe_free_model_hooks()
        return PurrceptionOutput(
            images=images,
            indices=generation.indices,
            entropy=generation.entropy,
            nfe=generation.nfe,
            labels=list(labels),
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
