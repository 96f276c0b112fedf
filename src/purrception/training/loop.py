"""The training loop, which is the same for every objective and any number of processes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from purrception.data import array_to_pil
from purrception.flow import Objective
from purrception.models import PurrceptionTransformer
from purrception.storage import refuse_to_start_over, save_png, set_aside
from purrception.storage.finite import all_finite
from purrception.tokens import TokenDataset
from purrception.training.batches import Prefetcher, TrainingBatches, to_device, training_twin, validation_batch
from purrception.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, TrainingState
from purrception.training.config import TrainingConfig
from purrception.training.distributed import (
    LossOf,
    distribute,
    full,
    gradients_of,
    own,
    shard_like,
    whole,
)
from purrception.training.ema import EMA
from purrception.training.metrics import MetricsLog
from purrception.training.overfitting import (
    MeasuredLosses,
    begins_to_overfit,
    describe_overfitting,
    read_losses,
)
from purrception.training.run_directory import RunDirectory
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar

SKIPS_IN_A_ROW = 10
VALIDATION_ROWS, VALIDATION_BATCH = 1024, 128
REMEDY = "Lower training.learning_rate, raise training.warmup_steps, or set training.precision float32"


@dataclass(frozen=True)
class SampleReport:
    """Samples of a network in training, and what was measured of them."""

    image: np.ndarray
    """A grid of samples, uint8 ``[H, W, C]``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics by name, for the log."""
    warnings: tuple[str, ...] = ()
    """Lines to show to the user."""


OnSample = Callable[[int, PurrceptionTransformer], SampleReport]
"""(step, network with averaged weights) → its samples."""


@dataclass(frozen=True)
class PendingStep:
    """An optimiser step whose metrics are still on the device."""

    step: int
    position: int
    """Position of its first sample in the stream of training samples."""
    metrics: dict[str, Tensor]
    """Means over the batch, scalars on the device; the loss and the gradient norm are among them."""


class TrainingDivergedError(InputError):
    """Ten steps in a row, the weights or the held-out loss were not finite."""


class Trainer:
    """Trains one network on token shards, in one process or in all processes of ``torchrun``.

    The processes share each batch; their number changes nothing but rounding.

    Args:
        config: optimisation, logging and saving.
        objective: defines the path and the loss.
        network: trained in place; under FSDP2 its weights become shards.
        train: training shards.
        held_out: shards for the held-out loss, if there are any.
        run: where metrics, samples and checkpoints are written.
        seed: seed of the data order, noise, times and label dropout.
        on_sample: draws samples every ``config.sample_every`` steps; every process calls it.

    Raises:
        InputError: the processes cannot share a microbatch evenly.
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
        on_sample: OnSample | None = None,
    ) -> None:
        if config.microbatch % distributed.count():
            raise InputError(
                "training.batch_size / training.accumulation must be a multiple of the number of processes; given "
                f"{distributed.count()} processes, {config.batch_size} and {config.accumulation}"
            )
        self.config, self.objective, self.run = config, objective, run
        self.held_out, self.on_sample = held_out, on_sample
        self.device = config.resolve_device()
        self.network = network.to(self.device)
        self.network.use_kernel(config.head_kernel)
        self.ema = EMA(self.network, config.ema_decay)
        self.network.backbone.gradient_checkpointing = config.recompute
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
        self._prefetcher = Prefetcher(self.batches, self.device)
        self.checkpoints = CheckpointStore(run.checkpoints, config.keep_checkpoints)
        self.seconds = 0.0
        """Time this process spent in optimiser steps, without validation, sample grids and checkpoints."""
        self.state = TrainingState(seed=seed, tokenizer_hash=train.manifest.tokenizer_hash)
        self._updates = torch.zeros((), dtype=torch.long, device=self.device)
        """``state.updates`` on the device, ahead of the host's count until pending steps are read back."""
        self._pending: list[PendingStep] = []
        self._losses: list[MeasuredLosses] | None = None

    def averaged(self) -> PurrceptionTransformer:
        """The network with averaged weights, unsharded; every process must call this."""
        return whole(self.ema.average)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore weights, EMA, optimizer and position from a checkpoint.

        Raises:
            InputError: the checkpoint is damaged, or belongs to another tokenizer or seed.
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
        self._pending.clear()
        self._losses = None

    def resume(self) -> bool:
        """Restore the latest undamaged checkpoint, if there is one; every process must call this.

        A damaged checkpoint is set aside with a note, and the one before it is tried.

        Returns:
            Whether a checkpoint was restored.

        Raises:
            InputError: all checkpoints are damaged, or they belong to another run.
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
        """Train up to step ``until`` (default: to the end) and save a checkpoint there.

        Raises:
            TrainingDivergedError: ten steps in a row, the weights or the held-out loss were not finite; earlier
                checkpoints stay valid.
        """
        last = min(until or self.config.steps, self.config.steps)
        if self.state.step >= last:
            return
        log = MetricsLog(self.run.metrics_file, self.state.step, self.config.trackers)
        with contextlib.closing(log), ProgressBar("training", last, start=self.state.step) as bar:
            began, samples = time.monotonic(), self.state.samples
            while self.state.step < last:
                start = time.monotonic()
                self._step()
                step, report = self.state.step, ""
                logged = step % self.config.log_every == 0 or step == last
                due = self._due(step, last)
                if logged or due:
                    metrics = self._read_metrics(log, bar)
                self.seconds += time.monotonic() - start
                if logged:
                    elapsed = time.monotonic() - began
                    codes = (self.state.samples - samples) * math.prod(self.network.grid)
                    metrics["codes_per_second"] = codes / max(elapsed, 1e-9)
                    log.write(step, metrics)
                    report = f"loss {metrics['loss']:.3f}"
                    began, samples = time.monotonic(), self.state.samples
                pause = time.monotonic()
                self._evaluate_and_save(step, due, log, bar)
                began += time.monotonic() - pause
                bar.update(step, report)

    def try_step(self) -> dict[str, float]:
        """Take one optimiser step without saving anything, and return its metrics."""
        with ProgressBar("training", 1, silent=True) as bar:
            self._step()
            return self._read_metrics(MetricsLog(self.run.metrics_file), bar)

    def _step(self) -> None:
        """Take one optimiser step over all microbatches; it changes nothing if the loss or gradient is not finite.

        Nothing is read back from the device here, which may be some steps behind; :meth:`_read_metrics` does so.
        """
        state, config = self.state, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(state.step)
        metrics = self._accumulate()
        good = metrics["loss"].isfinite() & metrics["gradient_norm"].isfinite()
        # The fused optimizer skips a step on the device where this is set, as a gradient scaler would set it.
        self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.ema.update(self.network, self._updates, good)
        self._updates += good
        state.step += 1
        self._pending.append(PendingStep(state.step, state.samples, metrics))
        state.samples += config.batch_size

    def _accumulate(self) -> dict[str, Tensor]:
        """Accumulate and clip the gradients of all microbatches; the mean metrics and the norm before clipping."""
        config, count = self.config, self.config.microbatch
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for microbatch in range(config.accumulation):
            batch = self._prefetcher.batch(self.state.samples + microbatch * count, count)
            with gradients_of(self._loss, complete=microbatch == config.accumulation - 1):
                with config.autocast(self.device):
                    losses = self._loss(batch)
                (losses.total / config.accumulation).backward()
            for name, value in {"loss": losses.total.detach(), **losses.figures}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulation
        distributed.average_(list(sums.values()))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        return sums | {"gradient_norm": full(norm)}

    def _read_metrics(self, log: MetricsLog, bar: ProgressBar) -> dict[str, float]:
        """Read back the metrics of all pending steps in one copy; return those of the latest.

        Raises:
            TrainingDivergedError: ten steps in a row were not finite.
        """
        pending, self._pending = self._pending, []
        values = torch.stack([torch.stack([*step.metrics.values()]).float() for step in pending])
        metrics: dict[str, float] = {}
        for step, row in zip(pending, values.tolist(), strict=True):
            metrics = dict(zip(step.metrics, row, strict=True))
            if math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"]):
                self.state.updates += 1
                self.state.skipped_in_a_row = 0
            else:
                reason = f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}"
                self._record_skip(step, reason, log, bar)
        if "cross_entropy" in metrics:
            metrics["bits_per_code"] = metrics["cross_entropy"] / math.log(2)
        return metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _record_skip(self, pending: PendingStep, reason: str, log: MetricsLog, bar: ProgressBar) -> None:
        """Log a step that left the weights as they were; stop after ten in a row."""
        state = self.state
        state.skipped += 1
        state.skipped_in_a_row += 1
        rows = self.batches.rows(pending.position, self.config.batch_size).tolist()
        log.write(pending.step, {"skipped": state.skipped, "reason": reason, "rows": rows})
        bar.note(f"step {pending.step} skipped: {reason}; its rows are in {self.run.metrics_file}")
        if state.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise TrainingDivergedError(
                f"{SKIPS_IN_A_ROW} steps in a row up to step {pending.step} were not finite ({reason}), so "
                f"training stopped; {self._last_good_checkpoint()}. {REMEDY}"
            )

    def _require_finite(self, step: int) -> None:
        """Refuse to save weights or averages that are not finite, or whose loss is not.

        Each step checks its loss and gradient before it is taken, but a large learning rate can still turn a
        finite gradient into an infinite weight.

        Raises:
            TrainingDivergedError: the weights, the averages or the loss are not finite.
        """
        networks = (self.network, self.ema.average)
        bad = (~all_finite(own(tensor) for of in networks for tensor in of.state_dict().values())).float()
        distributed.average_([bad])
        reason = "the weights are not finite" if bad else ""
        loss = self.state.validation_loss
        if not reason and self.held_out is None:
            loss, _ = self._fixed_losses(self.batches.dataset)
        if not reason and loss is not None and not math.isfinite(loss):
            reason = f"the weights give a loss of {loss}"
        if reason:
            raise TrainingDivergedError(
                f"{reason} after step {step}, so training stopped and they are not saved; "
                f"{self._last_good_checkpoint()}. {REMEDY}"
            )

    def _last_good_checkpoint(self) -> str:
        """Say which checkpoint training can resume from; saved ones are finite, and their digests show damage."""
        for checkpoint in reversed(self.checkpoints.all()):
            with contextlib.suppress(DamagedCheckpointError):
                checkpoint.check()
                return f"the checkpoint of step {checkpoint.state.step} is whole"
        return "no whole checkpoint was written before"

    def _due(self, step: int, last: int) -> set[str]:
        """What to do after a step: ``validate``, ``sample``, ``checkpoint``."""
        config = self.config
        every = {
            "validate": config.validate_every,
            "sample": config.sample_every,
            "checkpoint": config.checkpoint_every,
        }
        return {name for name, steps in every.items() if step == last or (steps > 0 and step % steps == 0)}

    def _evaluate_and_save(self, step: int, due: set[str], log: MetricsLog, bar: ProgressBar) -> None:
        """Measure the held-out loss, draw samples and save a checkpoint, where they are due."""
        if due & {"validate", "checkpoint"}:
            self.state.validation_loss = None
            if self.held_out is not None:
                self._measure_losses(step, self.held_out, log, bar)
        if "checkpoint" in due:
            self._require_finite(step)
        if "sample" in due and self.config.sample_every and self.on_sample is not None:
            # Before the checkpoint, since a run resumed from that does not pass this step again.
            report = self.on_sample(step, self.averaged())
            if distributed.rank() == 0:
                path = self.run.samples / f"step-{step:08d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_png(array_to_pil(report.image), path)
            log.image(step, "samples", report.image)
            if report.metrics:
                log.write(step, report.metrics)
            for warning in report.warnings:
                bar.note(f"step {step}: warning: {warning}")
        if "checkpoint" in due:
            self.checkpoints.save(self.state, self.network, self.ema.average, self.optimizer)

    def _measure_losses(self, step: int, held_out: TokenDataset, log: MetricsLog, bar: ProgressBar) -> None:
        """Record the held-out loss and that of training images, and warn once where they part."""
        self.state.validation_loss, training = self._fixed_losses(held_out, twin=self.batches.dataset)
        if self._losses is None:  # of a resumed run, those that it had measured
            self._losses = read_losses(self.run.metrics_file)
        self._losses.append(MeasuredLosses(step, self.state.validation_loss, training))
        log.write(step, {"validation_loss": self.state.validation_loss, "training_loss": training})
        bar.note(f"step {step}: held-out loss {self.state.validation_loss:.4f}, training loss {training:.4f}")
        if distributed.rank() == 0 and begins_to_overfit(self._losses):
            bar.note(f"step {step}: warning: {describe_overfitting(self.run)}")

    @torch.no_grad()
    def _fixed_losses(self, tokens: TokenDataset, twin: TokenDataset | None = None) -> tuple[float, float]:
        """Mean loss of the EMA weights at fixed rows, noise and times, and that of as many rows of ``twin``.

        The processes share the batches. Without a twin the second is 0.
        """
        network = self.averaged()
        rows = min(len(tokens), VALIDATION_ROWS)
        totals = torch.zeros(2, device=self.device)
        for start in range(distributed.rank() * VALIDATION_BATCH, rows, distributed.count() * VALIDATION_BATCH):
            count = min(VALIDATION_BATCH, rows - start)
            batches = [validation_batch(tokens, self.state.seed, start, count, rows)]
            batches += [training_twin(batches[0], twin, start, rows)] if twin is not None else []
            for number, batch in enumerate(batches):
                with self.config.autocast(self.device):
                    losses = self.objective.loss(network, to_device(batch, self.device))
                totals[number] += losses.total * count
        distributed.average_([totals])
        held_out, training = (float(total) * distributed.count() / rows for total in totals)
        return held_out, training
