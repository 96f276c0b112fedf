"""The sign that a network learns its training images by heart: held-out losses rise while training losses fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from purrception.storage import read_json_lines
from purrception.training.checkpoint import CheckpointStore
from purrception.training.run_directory import RunDirectory
from purrception.utils.text import command_line

RISE = 0.02
"""Share of its best value by which the held-out loss has clearly risen."""


@dataclass(frozen=True)
class MeasuredLosses:
    """Losses of the averaged weights after a step, under the same noise and times at every step."""

    step: int
    held_out: float
    training: float
    """On as many training images."""


def read_losses(metrics_file: Path) -> list[MeasuredLosses]:
    """The losses that a run has measured, by rising step; earlier versions did not measure that of training."""
    found = {}
    for line in read_json_lines(metrics_file):
        losses = [line.get(name) for name in ("validation_loss", "training_loss")]
        held_out, training = (loss if isinstance(loss, float) else math.nan for loss in losses)
        if math.isfinite(held_out + training):
            found[int(line["step"])] = MeasuredLosses(int(line["step"]), held_out, training)
    return [found[step] for step in sorted(found)]


def overfitted_since(losses: Sequence[MeasuredLosses]) -> MeasuredLosses | None:
    """The best measurement, if the latest two have a clearly higher held-out loss and a lower training loss."""
    if len(losses) < 3:
        return None
    best = min(losses, key=lambda one: one.held_out)
    clearly = best.held_out + RISE * abs(best.held_out)
    apart = [one.held_out > clearly and one.training < best.training for one in losses[-2:]]
    return best if all(apart) else None


def begins_to_overfit(losses: Sequence[MeasuredLosses]) -> bool:
    """Whether the latest measurement is the first that shows it."""
    return overfitted_since(losses) is not None and not any(
        overfitted_since(losses[:count]) for count in range(3, len(losses))
    )


def describe_overfitting(run: RunDirectory) -> str:
    """What to tell the person who trains an overfitted network, and what can be done; empty for others."""
    losses = read_losses(run.metrics_file)
    best = overfitted_since(losses)
    if best is None:
        return ""
    last, kept = losses[-1], CheckpointStore(run.checkpoints).best()
    how = ""
    if kept is not None:
        export = command_line(["export", str(run.root), "--checkpoint", "best"])
        how = f" The checkpoint of step {kept.state.step} is kept: {export} makes a pipeline of it."
    return (
        f"the held-out loss was best at step {best.step}, {best.held_out:.3f}, and is {last.held_out:.3f} at step "
        f"{last.step}, while the training loss fell from {best.training:.3f} to {last.training:.3f}: the network "
        f"learns its training images by heart. Samples may still get clearer, and be copies: evaluate tells.{how} "
        "Fewer --training.steps, a smaller --network, more images or --data.flips prevent it"
    )
