"""Training: the loop, its checkpoints, and the layout of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, TrainingState
    from purrception.training.config import TrainingConfig
    from purrception.training.loop import Trainer, TrainingDivergedError
    from purrception.training.run_directory import RunDirectory, check_target, is_pipeline

__getattr__, __dir__ = lazy_names(__name__)
