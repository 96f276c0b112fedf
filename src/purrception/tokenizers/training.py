"""Training a VQ autoencoder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor, nn

from purrception.data import ImageSource, ReadableImages, ignored_files, images_to_tensor, write_report
from purrception.storage import (
    append_line,
    drop_lines_after,
    load_optimizer_state,
    move_into_place,
    optimizer_state,
    read_json_lines,
    write_file,
    writing,
)
from purrception.storage.names import CONFIG_FILE
from purrception.tokenizers.adversarial import PatchDiscriminator, adaptive_weight, hinge_loss
from purrception.tokenizers.checkpoint import (
    Progress,
    TokenizerCheckpoint,
    generator_state,
    latest_checkpoint,
    refuse_not_finite,
    restore_generator,
    save_checkpoint,
)
from purrception.tokenizers.perceptual import LPIPS
from purrception.tokenizers.quality import measure
from purrception.tokenizers.quantisers import QUANTISERS, FrozenQuantiser, Quantiser
from purrception.tokenizers.saved import ORIGIN_FILE
from purrception.tokenizers.settings import TokenizerTrainingConfig, VQConfig
from purrception.tokenizers.vq import VQTokenizer
from purrception.utils import distributed
from purrception.utils.devices import autocast, upload
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng
from purrception.utils.progress import ProgressBar

METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MOST_MEASURED = 512
"""How many held-out images training is measured on, at most."""


def train_tokenizer(
    vq_config: VQConfig,
    config: TokenizerTrainingConfig,
    train: ImageSource,
    held_out: ImageSource,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    start: VQTokenizer | None = None,
    decoder_only: bool = False,
) -> VQTokenizer:
    """Train a tokenizer on ``train``, measure it on ``held_out`` and save it in ``folder``.

    An interrupted training resumes from its last checkpoint in ``folder`` and ends, on a CPU, with exactly the
    same tokenizer. Under ``torchrun`` the processes share each batch, within
    :func:`purrception.utils.distributed.joined`.

    Args:
        vq_config: the architecture.
        config: the training.
        train: the images to learn from.
        held_out: the images to measure on, of which at most 512 are used; if there are none, ``train`` is.
        folder: where to write the tokenizer, ``metrics.jsonl``, ``origin.json``, a ``report.jsonl`` of the images
            that cannot be read and, until training is done, checkpoints.
        seed: the seed of the initial weights, the order of the images and the restarted codes.
        device: where to train; the tokenizer stays there.
        start: a tokenizer of the same architecture to start from.
        decoder_only: keep the encoder and the codebook of ``start``, so that its codes remain valid.

    Raises:
        InputError: there are no images, the configuration does not fit them, or training diverged.
    """
    if len(train) == 0:
        raise InputError("there are no training images: check data.root and data.test_fraction")
    if config.batch_size % distributed.count():
        raise InputError(
            f"batch_size is a multiple of the number of processes; given {config.batch_size} and "
            f"{distributed.count()}"
        )
    learned, reference = ReadableImages(train), ReadableImages(held_out)
    with torch.random.fork_rng(devices=[]):
        trainer = build_trainer(vq_config, config, learned, reference, folder, seed, device, start, decoder_only)
        if checkpoint := latest_checkpoint(folder / CHECKPOINTS):
            trainer.restore(checkpoint)
        trainer.fit()
    tokenizer = VQTokenizer(trainer.vq)
    skipped = set().union(*distributed.gather(learned.skipped + reference.skipped))
    if distributed.rank() == 0:
        write_report(folder, [*sorted(skipped), *ignored_files(train)])
        _save_whole(tokenizer, folder, config.quantiser)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    distributed.wait()
    return tokenizer


def build_trainer(
    vq_config: VQConfig,
    config: TokenizerTrainingConfig,
    train: ReadableImages,
    held_out: ReadableImages,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    start: VQTokenizer | None = None,
    decoder_only: bool = False,
) -> TokenizerTrainer:
    """A trainer at step 0, which writes nothing yet; it seeds torch's generator. See :func:`train_tokenizer`."""
    samples = held_out.spread(MOST_MEASURED) or train.spread(MOST_MEASURED) or [train[0][0]]
    measured_on = images_to_tensor(samples)
    config.check(vq_config, measured_on.shape[-1])
    torch.manual_seed(seed)
    if start is None:
        vq = vq_config.build(image_channels=measured_on.shape[1], image_size=measured_on.shape[-1])
    else:  # copy the network itself: a converted one may have parts that VQConfig does not describe
        vq = copy.deepcopy(start.vq).requires_grad_(True)
    quantiser = _quantiser(vq, vq_config, config, start, decoder_only)
    return TokenizerTrainer(vq.to(device), quantiser.to(device), config, train, measured_on, folder, seed)


def _quantiser(
    vq: VQModel,
    vq_config: VQConfig,
    config: TokenizerTrainingConfig,
    start: VQTokenizer | None,
    decoder_only: bool,
) -> Quantiser:
    """The quantiser for ``vq``, which starts from ``start`` if given; parts that must not change are frozen."""
    vq.quantize.embedding.requires_grad_(False)
    if start is None:
        if decoder_only:
            raise InputError("decoder_only trains the decoder of an existing tokenizer: give it with init_from")
        return QUANTISERS[config.quantiser](vq_config, config)
    if VQConfig.of(start.vq) != vq_config or start.image_channels != vq.config.in_channels:
        raise InputError(
            f"the tokenizer to start from has {start.image_channels} image channels and {VQConfig.of(start.vq)}; "
            f"given {vq.config.in_channels} and {vq_config}"
        )
    if decoder_only:
        for part in (vq.encoder, vq.quant_conv):
            part.requires_grad_(False)
        return FrozenQuantiser(start.codebook.cpu())
    quantiser = QUANTISERS[config.quantiser](vq_config, config)
    quantiser.start_from(start.codebook.cpu())
    return quantiser


class TokenizerTrainer:
    """Trains the parameters of an autoencoder that require gradients, and its codebook.

    Args:
        vq: the network, trained in place; it receives the learned codebook.
        quantiser: learns the codebook.
        config: the training.
        train: the images to learn from.
        measured_on: the images to measure on, ``[n, C, H, W]`` in [−1, 1].
        folder: where to write metrics and checkpoints.
        seed: the seed of the order of the images.
    """

    def __init__(
        self,
        vq: VQModel,
        quantiser: Quantiser,
        config: TokenizerTrainingConfig,
        train: ReadableImages,
        measured_on: Tensor,
        folder: Path,
        seed: int,
    ) -> None:
        self.vq, self.quantiser, self.config = vq, quantiser, config
        self.train, self.measured_on, self.folder, self.seed = train, measured_on, folder, seed
        self.device: torch.device = vq.device
        self.networks: dict[str, nn.Module] = {"vq": vq, "quantiser": quantiser}
        self.named = {
            f"{part}.{name}": parameter
            for part, module in self.networks.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.learned = list(self.named.values())
        self.optimizer = torch.optim.AdamW(self.learned, lr=config.learning_rate, weight_decay=1e-4)
        self.optimizers = {"optimizer": (self.optimizer, self.named)}
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.steps)
        self.perceptual = LPIPS(config.loss.perceptual_weights).to(self.device) if config.loss.perceptual else None
        self.discriminator: PatchDiscriminator | None = None
        if config.adversarial.weight:
            self.discriminator = PatchDiscriminator(config.adversarial, measured_on.shape[1]).to(self.device)
            named = dict(self.discriminator.named_parameters())
            self.critic = torch.optim.AdamW(named.values(), lr=config.adversarial.learning_rate, betas=(0.5, 0.9))
            self.networks["discriminator"] = self.discriminator
            self.optimizers["critic"] = self.critic, named
        if distributed.rank():  # each process draws its own latents for restarted codes
            torch.manual_seed(int(keyed_rng(seed, Stream.TOKENIZER, 0, distributed.rank()).integers(2**62)))
        self.step = 0
        self._first_bad = torch.zeros((), dtype=torch.long, device=self.device)
        """The first step whose gradient was not finite, or 0; it is read only when metrics are written."""

    def fit(self) -> None:
        """Train to the end.

        Raises:
            InputError: a loss or gradient was not finite.
        """
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            drop_lines_after(self.folder / METRICS_FILE, self.step)
        with ProgressBar("tokenizer", config.steps, self.step) as bar:
            while self.step < config.steps:
                self.step += 1
                losses = self._step()
                text, last = "", self.step == config.steps
                report = last or self.step % config.report_every == 0
                save = not last and self.step % config.checkpoint_every == 0
                if report or save:  # before anything is shown or saved
                    networks = (self.vq, self.quantiser)
                    refuse_not_finite(self.step, int(self._first_bad), networks, self.folder / CHECKPOINTS)
                if report:
                    text = self._report(losses)
                if save:
                    self._save()
                bar.update(self.step, text)

    def try_step(self) -> None:
        """Take one step without measuring or saving anything."""
        self.step += 1
        self._step()

    def _step(self) -> dict[str, Tensor]:
        """One step of the autoencoder, and of the discriminator once it has begun; returns the losses."""
        images = self._batch()
        self.vq.train()
        with autocast(self.config.precision, self.device):
            latents = self.vq.encode(images).latents
        quantised = self.quantiser(latents)
        with autocast(self.config.precision, self.device):
            reconstructed = self.vq.decode(quantised.codes, force_not_quantize=True).sample.float()
            reconstruction = self._reconstruction_loss(reconstructed, images)
        loss = reconstruction + quantised.loss
        losses = {"loss": loss.detach()}
        adversarial_step = self.discriminator is not None and self.step > self.config.adversarial.start
        if adversarial_step:
            adversarial, weight = self._adversarial_loss(reconstructed, reconstruction)
            loss = loss + self.config.adversarial.weight * weight * adversarial
            losses |= {"adversarial": adversarial.detach(), "adaptive_weight": weight}
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_(gradients(self.learned))
        norm = torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        bad = ~norm.isfinite() & (self._first_bad == 0)
        self._first_bad = torch.where(bad, self.step, self._first_bad)
        self.optimizer.step()
        if adversarial_step:
            losses["discriminator"] = self._train_discriminator(images, reconstructed.detach())
        self.schedule.step()
        return losses

    def _batch(self) -> Tensor:
        """This process's share of the step's images."""
        rows = keyed_rng(self.seed, Stream.TOKENIZER, self.step).integers(
            len(self.train), size=self.config.batch_size
        )
        share = len(rows) // distributed.count()
        rows = rows[distributed.rank() * share : (distributed.rank() + 1) * share]
        return upload(images_to_tensor([self.train[int(row)][0] for row in rows]), self.device)

    def _reconstruction_loss(self, reconstructed: Tensor, images: Tensor) -> Tensor:
        weights = self.config.loss
        loss = weights.l2 * F.mse_loss(reconstructed, images) + weights.l1 * F.l1_loss(reconstructed, images)
        if self.perceptual is not None:
            loss = loss + weights.perceptual * self.perceptual(reconstructed, images).mean()
        return loss

    def _adversarial_loss(self, reconstructed: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """−E[D(x̂)], which reaches the autoencoder alone, and its adaptive weight."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(False)
        with autocast(self.config.precision, self.device):
            adversarial = -self.discriminator(reconstructed).float().mean()
        self.discriminator.requires_grad_(True)
        return adversarial, adaptive_weight(reconstruction, adversarial, self.vq.decoder.conv_out.weight)

    def _train_discriminator(self, images: Tensor, reconstructed: Tensor) -> Tensor:
        assert self.discriminator is not None
        fall = self.optimizer.param_groups[0]["lr"] / self.config.learning_rate
        for group in self.critic.param_groups:
            group["lr"] = self.config.adversarial.learning_rate * fall
        with autocast(self.config.precision, self.device):
            loss = hinge_loss(self.discriminator(images), self.discriminator(reconstructed))
        self.critic.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_(gradients(self.discriminator.parameters()))
        self.critic.step()
        return loss.detach()

    def _report(self, losses: dict[str, Tensor]) -> str:
        """Measure on held-out images and write a line of metrics; returns text for the progress bar."""
        # The learned codebook, where a VQModel stores it.
        self.vq.quantize.embedding.weight.data.copy_(self.quantiser.codebook)
        distributed.average_(list(losses.values()))
        if distributed.rank():
            return ""
        measured = measure(VQTokenizer(self.vq), self.measured_on)  # which freezes the network
        for parameter in self.learned:
            parameter.requires_grad_(True)
        figures = {name: float(value) for name, value in losses.items()} | asdict(measured)
        append_line(self.folder / METRICS_FILE, json.dumps({"step": self.step, **figures}))
        return (
            f"psnr {measured.psnr:.1f} dB  codes used {measured.usage:.0%}  perplexity {measured.perplexity:.0f}"
        )

    def _setting(self) -> str:
        """What must be equal for a checkpoint to be resumed."""
        model = asdict(VQConfig.of(self.vq))
        setting = {"seed": self.seed, "model": model, "learned": sorted(self.named), **asdict(self.config)}
        return json.dumps(setting, sort_keys=True)

    def _save(self) -> None:
        """Write a checkpoint, with the states of all processes' random number generators."""
        generators = distributed.gather(generator_state(self.device))
        if distributed.rank():
            return
        parts = {name: network.state_dict() for name, network in self.networks.items()}
        parts |= {name: optimizer_state(*optimised) for name, optimised in self.optimizers.items()}
        parts |= {f"generator-{number}": state for number, state in enumerate(generators)}
        progress = Progress(
            step=self.step,
            setting=self._setting(),
            schedule=self.schedule.state_dict(),
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )
        save_checkpoint(self.folder / CHECKPOINTS, progress, parts)

    def restore(self, checkpoint: TokenizerCheckpoint) -> None:
        """Resume from a checkpoint: networks, codebook, optimizers, schedule, step and random number generators.

        Raises:
            InputError: the checkpoint belongs to another training.
        """
        if checkpoint.progress.setting != self._setting():
            raise InputError(
                f"the checkpoint {checkpoint.file} belongs to a training with another configuration or seed: "
                "resume that one, or choose another folder"
            )
        for name, network in self.networks.items():
            network.load_state_dict(checkpoint.part(name))
        for name, optimised in self.optimizers.items():
            load_optimizer_state(*optimised, checkpoint.part(name))
        self.schedule.load_state_dict(checkpoint.progress.schedule)
        self.optimizer.param_groups[0]["lr"] = checkpoint.progress.learning_rate
        if state := checkpoint.part(f"generator-{distributed.rank()}"):  # an added process has none
            restore_generator(state, self.device)
        self.step = checkpoint.progress.step


def psnr_history(folder: Path) -> list[float]:
    """PSNR on held-out images during the training of the tokenizer in ``folder``; empty for one of elsewhere."""
    return [line["psnr"] for line in read_json_lines(folder / METRICS_FILE) if isinstance(line.get("psnr"), float)]


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients of the parameters that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _save_whole(tokenizer: VQTokenizer, folder: Path, quantiser: str) -> None:
    """Save a tokenizer so that ``config.json``, which marks a finished one, appears last."""
    partial = folder / ".partial-tokenizer"
    shutil.rmtree(partial, ignore_errors=True)
    lengths = tokenizer.codebook.norm(dim=1)
    origin = {
        "source": "trained by purrception",
        "quantiser": quantiser,
        "codebook_normalised": bool((lengths - 1).abs().max() < 1e-4),
    }
    with writing(folder):
        tokenizer.save(partial)
        write_file(partial / ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")
        for file in sorted(partial.iterdir(), key=lambda file: file.name == CONFIG_FILE):
            move_into_place(file, folder / file.name)
        partial.rmdir()
