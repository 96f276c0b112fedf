"""The part of the pipeline that generates: from class labels to images, codes and uncertainty.

A saved pipeline holds this class as ``pipeline.py`` (see :mod:`purrception.generation.portable`), so it needs
nothing but what diffusers needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from PIL import Image
from torch import Tensor

from purrception.data.classes import Classes
from purrception.data.transforms import array_to_pil
from purrception.flow import (
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
from purrception.generation.outputs import OUTPUT_TYPES, OutputType, PurrceptionOutput
from purrception.generation.sampler import GeneratorDraws, GivenStart, KeyedDraws, in_batches
from purrception.generation.scheduler import SETTINGS, PurrceptionScheduler, with_settings
from purrception.models import PurrceptionTransformer
from purrception.tokenizers.vq import VQTokenizer
from purrception.utils.devices import on_device, upload
from purrception.utils.errors import InputError, unknown_name

ClassLabels = int | str | Sequence[int | str] | Tensor
"""A class, by its label or name, or several."""
Generators = torch.Generator | list[torch.Generator]
"""A source of random numbers for all images, or one for each."""
OnStepEnd = Callable[[Any, int, float, dict[str, Tensor | None]], Mapping[str, Tensor] | None]
"""diffusers' callback: (pipeline, step, t, the tensors that were asked for) → the tensors to go on with."""


class PurrceptionGenerationPipeline(DiffusionPipeline):
    """Generates images with a trained network and its tokenizer.

    Args:
        transformer: the network.
        vqvae: the tokenizer on whose codes it was trained.
        scheduler: how to sample where a call does not say.
        objective: name of the objective it was trained with.
        tokenizer_hash: fingerprint that ``vqvae`` must have; not checked if empty.
        class_names: names by label; none for an unconditional model.

    Raises:
        InputError: the network was trained with another tokenizer.
    """

    model_cpu_offload_seq = "transformer->vqvae"
    _callback_tensor_inputs = ("latents", "mean", "entropy")
    _interrupt = False

    def __init__(
        self,
        transformer: PurrceptionTransformer,
        vqvae: VQModel,
        scheduler: PurrceptionScheduler,
        objective: str = "purrception",
        tokenizer_hash: str = "",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vqvae=vqvae, scheduler=scheduler)
        self.register_to_config(objective=objective, tokenizer_hash=tokenizer_hash, class_names=class_names or [])
        self.tokenizer = VQTokenizer(vqvae)
        self.objective = build_objective(ObjectiveConfig(name=objective))
        exact = vqvae.dtype == torch.float32  # rounded weights have a different hash
        if tokenizer_hash and exact and self.tokenizer.fingerprint != tokenizer_hash:
            raise InputError(
                f"this network was trained on codes of the tokenizer {tokenizer_hash[:12]}…; given "
                f"{self.tokenizer.fingerprint[:12]}…: use the tokenizer of the run"
            )

    def default_settings(self, **sampling: Any) -> SamplingConfig:
        """The settings of the scheduler, with those of ``sampling`` that are not ``None`` in their place.

        Raises:
            InputError: an unknown setting or a number out of its range, or a scheduler of another kind.
        """
        if not SETTINGS.keys() <= self.scheduler.config.keys():
            raise InputError(
                f"a pipeline's scheduler is a PurrceptionScheduler; given {type(self.scheduler).__name__}: choose "
                "a solver by type(pipe.scheduler).from_config(pipe.scheduler.config, solver='heun')"
            )
        for name in sampling.keys() - SETTINGS:
            if name in SamplingConfig.RENAMED:
                raise InputError(f"{name} is now called {SamplingConfig.RENAMED[name]}")
            raise unknown_name("setting", name, SETTINGS)
        given = {name: value for name, value in sampling.items() if value is not None}
        saved = {name: self.scheduler.config[name] for name in SETTINGS}
        return SamplingConfig(**saved | given)

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
        if output_type not in OUTPUT_TYPES:
            raise unknown_name("output_type", str(output_type), OUTPUT_TYPES)
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
        draws_of: Callable[[range], Draws] | None = None,
        step_end: StepEnd | None = None,
        output_type: OutputType = "pil",
        record: bool = False,
    ) -> PurrceptionOutput:
        """Generate one image per label, as a call of the pipeline does, with the settings as one object.

        Args:
            labels: a number for each image; the number of classes stands for the null class.
            settings: how to sample.
            seed: seed of the noise.
            batch_size: images at a time.
            watch: called at every evaluation with ``(t, state, prediction)``; it may raise an exception to stop.
            draws_of: the random numbers of the images of these numbers, in place of those of the seed; then this
                process makes all images itself.
            step_end: called after every step; see :class:`purrception.flow.Objective`.
            output_type: see :meth:`__call__`.
            record: record the steps of a batch as a CUDA graph and replay it for the others.
        """
        on_device(self.transformer).eval()
        generation = self._generate(labels, settings, seed, batch_size, watch, draws_of, step_end, record)
        return self._decode(generation, labels, output_type)

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
        """The codes of all images, made by this process alone."""
        if batch_size < 1:
            raise InputError(f"batch_size is at least 1; given {batch_size}")
        if record:
            raise InputError("this code does not record CUDA graphs: load the pipeline with purrception")
        network = self.transformer

        def sample_batch(batch: range) -> Generation:
            draws = KeyedDraws(seed, batch, network) if draws_of is None else draws_of(batch)
            own = upload(torch.tensor(labels[batch.start : batch.stop]), network.device)
            with network.reduced_precision():
                return self.objective.generate(network, own, draws, settings, watch=watch, step_end=step_end)

        with self.progress_bar(total=len(labels)) as bar:
            images = range(len(labels))
            return in_batches(images, batch_size, sample_batch, lambda done: bar.update(done - bar.n))

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
            path_entropy=generation.path_entropy,
        )
