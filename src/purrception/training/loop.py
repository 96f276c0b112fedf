"""The training loop, the same for every objective and any number of processes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purrception.data import array_to_pil
from purrception.flow import Objective
from purrception.models import PurrceptionTransformer
from purrception.storage import refuse_to_start_over, set_aside, whole_file
from purrception.storage.finite import all_finite
from purrception.tokens import TokenDataset
from purrception.training.batches import BatchesAhead, TrainingBatches, to_device, validation_batch
from purrception.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, TrainingState
from purrception.training.config import TrainingConfig
from purrception.training.distributed import (
    LossOf,
    clip_gradients,
    distribute,
    gradients_of,
    own,
    shard_like,
    whole,
)
from purrception.training.ema import EMA
from purrception.training.metrics import MetricsLog
from purrception.training.run_directory import RunDirectory
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar

SKIPS_IN_A_ROW = 10
VALIDATION_ROWS, VALIDATION_BATCH = 1024, 128
REMEDY = "Lower training.learning_rate, lengthen training.warmup_steps, or set training.precision float32"


@dataclass(frozen=True)
class Glance:
    """What a look at a network in training saw."""

    picture: np.ndarray
    """Its samples, uint8 ``[H, W, C]``."""
    figures: dict[str, float] = field(default_factory=dict)
    """By name, for the metrics."""
    warnings: tuple[str, ...] = ()
    """Lines for the person who waits."""


Look = Callable[[int, PurrceptionTransformer], Glance]
"""(step, network with averaged weights) → what is seen of it."""


@dataclass(frozen=True)
class Attempt:
    """A step whose numbers have not been looked at yet."""

    step: int
    position: int
    """In the stream of samples, where its batch begins."""
    figures: dict[str, Tensor]
    """Means over the batch, scalars on the device; the loss and the gradient's norm among them."""


class TrainingDivergedError(InputError):
    """Ten steps in a row, or what training has made of the weights, were not finite."""


class Trainer:
    """Trains one network on token shards, alone or with the other processes of ``torchrun``.

    Processes share each batch. What is learned does not depend on their number, but for rounding.

    Args:
        config: optimisation, logging and saving.
        objective: owns the path and the loss.
        network: trained in place; under FSDP2 its weights become shards.
        train: shards to learn from.
        held_out: shards for the held-out loss, if there are any.
        run: where metrics, samples and checkpoints go.
        seed: of the data order, noise, times and label dropout.
        look: samples that show how far the network has come, and signs of trouble; every process looks.

    Raises:
        InputError: a microbatch cannot be shared evenly by the processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        objective: Objective,
        network: PurrceptionTransformer,
        train: TokenDataset,
        held_out: TokenDataset | None,
        run: RunDirectory,
        seed: int = 0,
        look: Look | None = None,
    ) -> None:
        if config.microbatch % distributed.count():
            raise InputError(
                "the number of processes divides training.batch_size / training.accumulation; given "
                f"{distributed.count()} processes, {config.batch_size} and {config.accumulation}"
            )
        self.config, self.objective, self.run = config, objective, run
        self.held_out, self.look = held_out, look
        self.device = config.resolve_device()
        self.network = network.to(self.device)
        self.network.use_kernel(config.head_kernel)
        self.ema = EMA(self.network, config.ema_decay)
        self.network.backbone.recompute = config.recompute
        if config.compile:
            self.network.compile_parts()
        self._loss = distribute(LossOf(objective, self.network), config.parallel, config.shards, self.device)
        shard_like(self.ema.average, self.network, objective)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.batches = TrainingBatches(train, seed, config.label_dropout, config.times())
        self._ahead = BatchesAhead(self.batches, self.device)
        self.checkpoints = CheckpointStore(run.checkpoints, config.keep_checkpoints)
        self.seconds = 0.0
        """Spent in optimiser steps by this process, without validation, sample grids and checkpoints."""
        self.state = TrainingState(seed=seed, tokenizer_hash=train.manifest.tokenizer_hash)
        self._updates = torch.zeros((), dtype=torch.long, device=self.device)
        """``state.updates`` where the steps are taken, which is ahead of what is known of them here."""
        self._unread: list[Attempt] = []

    def averaged(self) -> PurrceptionTransformer:
        """The network with averaged weights, whole; every process takes part."""
        return whole(self.ema.average)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint: weights, EMA, optimizer and position.

        Raises:
            InputError: it belongs to another tokenizer or seed, or is damaged.
        """
        for name in ("tokenizer_hash", "seed"):
            saved, here = getattr(checkpoint.state, name), getattr(self.state, name)
            if saved != here:
                raise InputError(
                    f"the checkpoint {checkpoint.folder} was trained with {name} {saved}; "
                    f"this run has {here}: use the run it belongs to"
                )
        checkpoint.load_network(self.network)
        checkpoint.load_network(self.ema.average, ema=True)
        checkpoint.load_optimizer(self.optimizer, self.network)
        self.state = checkpoint.state
        self._updates.fill_(self.state.updates)
        self._unread.clear()

    def resume(self) -> bool:
        """Go on from the latest checkpoint that is whole; whether there is any. Every process takes part.

        One that is damaged is set aside, a line says so, and the one before it is taken.

        Raises:
            InputError: all are damaged, or they belong to another run.
        """
        for checkpoint in reversed(self.checkpoints.all()):
            problem = ""
            try:
                checkpoint.check(shared=True)
                self.restore(checkpoint)
            except DamagedCheckpointError as error:
                problem = error.reason
            problem = distributed.first_problem(problem)
            if not problem:
                return True
            set_aside(checkpoint.folder, problem)
        refuse_to_start_over(self.checkpoints.folder)
        return False

    def fit(self, until: int | None = None) -> None:
        """Train up to step ``until`` (default: to the end), with a checkpoint there.

        Raises:
            TrainingDivergedError: ten steps in a row, the weights or the held-out loss were not finite; what was
                saved before is.
        """
        last = min(until or self.config.steps, self.config.steps)
        if self.state.step >= last:
            return
        log = MetricsLog(self.run.metrics_file, self.state.step)
        with ProgressBar("training", last, start=self.state.step) as bar:
            began, samples = time.monotonic(), self.state.samples
            while self.state.step < last:
                start = time.monotonic()
                self._step()
                step, report = self.state.step, ""
                logged = step % self.config.log_every == 0 or step == last
                due = self._due(step, last)
                if logged or due:
                    figures = self._read(log, bar)
                self.seconds += time.monotonic() - start
                if logged:
                    elapsed = time.monotonic() - began
                    codes = (self.state.samples - samples) * self._codes_per_image
                    figures["codes_per_second"] = codes / max(elapsed, 1e-9)
                    log.write(step, figures)
                    report = f"loss {figures['loss']:.3f}"
                    began, samples = time.monotonic(), self.state.samples
                pause = time.monotonic()
                self._milestones(step, due, log, bar)
                began += time.monotonic() - pause
                bar.update(step, report)

    def try_step(self) -> dict[str, float]:
        """One optimiser step with nothing saved, as a dry run takes it; its figures."""
        with ProgressBar("training", 1, silent=True) as bar:
            self._step()
            return self._read(MetricsLog(self.run.metrics_file), bar)

    @property
    def _codes_per_image(self) -> int:
        return math.prod(self.network.grid)

    def _step(self) -> None:
        """One optimiser step over all microbatches, which changes nothing where a number is not finite.

        No number of it comes back from the device, which may be steps behind: :meth:`_read` looks at them later.
        """
        state, config = self.state, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(state.step)
        figures = self._accumulate()
        good = figures["loss"].isfinite() & figures["gradient_norm"].isfinite()
        self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # as a gradient scaler tells it
        self.optimizer.step()
        self.ema.update(self.network, self._updates, good)
        self._updates += good
        state.step += 1
        self._unread.append(Attempt(state.step, state.samples, figures))
        state.samples += config.batch_size

    def _accumulate(self) -> dict[str, Tensor]:
        """Gradients of all microbatches, clipped; the mean figures, and the norm before clipping."""
        config, count = self.config, self.config.microbatch
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for microbatch in range(config.accumulation):
            batch = self._ahead.batch(self.state.samples + microbatch * count, count)
            with gradients_of(self._loss, complete=microbatch == config.accumulation - 1):
                with config.autocast(self.device):
                    losses = self._loss(batch)
                (losses.total / config.accumulation).backward()
            for name, value in {"loss": losses.total.detach(), **losses.figures}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulation
        distributed.average_(list(sums.values()))
        return sums | {"gradient_norm": clip_gradients(self.network.parameters(), config.gradient_clip)}

    def _read(self, log: MetricsLog, bar: ProgressBar) -> dict[str, float]:
        """Look at the steps since the last look, in one copy; the figures of the latest.

        Raises:
            TrainingDivergedError: ten of them in a row were not finite.
        """
        attempts, self._unread = self._unread, []
        numbers = torch.stack([torch.stack([*attempt.figures.values()]).float() for attempt in attempts])
        figures: dict[str, float] = {}
        for attempt, row in zip(attempts, numbers.tolist(), strict=True):
            figures = dict(zip(attempt.figures, row, strict=True))
            if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"]):
                self.state.updates += 1
                self.state.skipped_in_a_row = 0
            else:
                self._skip(attempt, figures["loss"], figures["gradient_norm"], log, bar)
        if "cross_entropy" in figures:
            figures["bits_per_code"] = figures["cross_entropy"] / math.log(2)
        return figures | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _skip(self, attempt: Attempt, loss: float, norm: float, log: MetricsLog, bar: ProgressBar) -> None:
        """Record a step that did not touch the weights; stop after ten in a row."""
        state = self.state
        state.skipped += 1
        state.skipped_in_a_row += 1
        rows = self.batches.rows(attempt.position, self.config.batch_size).tolist()
        log.write(attempt.step, {"skipped": state.skipped, "reason": _reason(loss, norm), "rows": rows})
        bar.note(f"step {attempt.step} skipped: {_reason(loss, norm)}; its rows are in {self.run.metrics_file}")
        if state.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise TrainingDivergedError(
                f"{SKIPS_IN_A_ROW} steps in a row up to step {attempt.step} were not finite "
                f"({_reason(loss, norm)}), so training stopped; {self._what_is_left()}. {REMEDY}"
            )

    def _require_sound(self, step: int) -> None:
        """Refuse to save weights or averages that are not finite, or give a loss that is not.

        The guard of a step looks at its loss and gradient, before it is taken: a learning rate can still make of
        a finite gradient what no number holds.

        Raises:
            TrainingDivergedError: it is so.
        """
        networks = (self.network, self.ema.average)
        bad = (~all_finite(own(tensor) for of in networks for tensor in of.state_dict().values())).float()
        distributed.average_([bad])
        reason = "the weights are not finite" if bad else ""
        loss = self.state.validation_loss
        if not reason and self.held_out is None:
            loss = self._validation_loss(self.batches.dataset)
        if not reason and loss is not None and not math.isfinite(loss):
            reason = f"the weights give a loss of {loss}"
        if reason:
            raise TrainingDivergedError(
                f"{reason} after step {step}, so training stopped and they are not saved; {self._what_is_left()}. "
                f"{REMEDY}"
            )

    def _what_is_left(self) -> str:
        """Which checkpoint training can go on from: only finite ones are written, and digests tell of damage."""
        for checkpoint in reversed(self.checkpoints.all()):
            with contextlib.suppress(DamagedCheckpointError):
                checkpoint.check()
                return f"the checkpoint of step {checkpoint.state.step} is whole"
        return "no whole checkpoint was written before"

    def _due(self, step: int, last: int) -> set[str]:
        """What is done after a step: ``validate``, ``sample``, ``checkpoint``."""
        config = self.config
        every = {
            "validate": config.validate_every,
            "sample": config.sample_every,
            "checkpoint": config.checkpoint_every,
        }
        return {name for name, steps in every.items() if step == last or (steps > 0 and step % steps == 0)}

    def _milestones(self, step: int, due: set[str], log: MetricsLog, bar: ProgressBar) -> None:
        """Held-out loss, sample grid and checkpoint, where they are due."""
        if due & {"validate", "checkpoint"}:
            self.state.validation_loss = None if self.held_out is None else self._validation_loss(self.held_out)
            if self.state.validation_loss is not None:
                log.write(step, {"validation_loss": self.state.validation_loss})
                bar.note(f"step {step}: held-out loss {self.state.validation_loss:.4f}")
        if "checkpoint" in due:
            self._require_sound(step)
        if "sample" in due and self.config.sample_every and self.look is not None:
            # Before the checkpoint: whoever goes on from that does not come by this step again.
            seen = self.look(step, self.averaged())
            if distributed.rank() == 0:
                self._save_picture(self.run.samples / f"step-{step:08d}.png", seen.picture)
            log.image(step, "samples", seen.picture)
            if seen.figures:
                log.write(step, seen.figures)
            for warning in seen.warnings:
                bar.note(f"step {step}: warning: {warning}")
        if "checkpoint" in due:
            self.checkpoints.save(self.state, self.network, self.ema.average, self.optimizer)

    @torch.no_grad()
    def _validation_loss(self, tokens: TokenDataset) -> float:
        """Mean loss of the EMA weights over rows at fixed noise and times; processes take turns."""
        network = self.averaged()
        rows = min(len(tokens), VALIDATION_ROWS)
        total = torch.zeros((), device=self.device)
        for start in range(distributed.rank() * VALIDATION_BATCH, rows, distributed.count() * VALIDATION_BATCH):
            count = min(VALIDATION_BATCH, rows - start)
            batch = validation_batch(tokens, self.state.seed, start, count, rows)
            with self.config.autocast(self.device):
                losses = self.objective.loss(network, to_device(batch, self.device))
            total += losses.total * count
        distributed.average_([total])
        return float(total) * distributed.count() / rows

    @staticmethod
    def _save_picture(path: Path, picture: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            array_to_pil(picture).save(partial, format="png")


def _reason(loss: float, gradient_norm: float) -> str:
    return f"loss {loss}, gradient norm {gradient_norm}"
