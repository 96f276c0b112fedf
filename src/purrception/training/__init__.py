"""Training: the loop, its checkpoints, and the layout of a run."""

from purrception.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, TrainingState
from purrception.training.config import TrainingConfig
from purrception.training.loop import Trainer, TrainingDivergedError
from purrception.training.run_directory import RunDirectory, is_pipeline
