"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field

from purrception.cli.parsing import flat
from purrception.flow.settings import SamplingConfig
from purrception.utils.settings import TIMEOUT_MINUTES


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a command computes."""

    device: str = "auto"
    """Where to compute: cpu, cuda, …; auto takes a GPU when there is one."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
    """Where a command computes, alone or under ``torchrun``."""

    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how many minutes processes wait for one that shows no progress."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample; what is left out is the run's own setting."""

    sampling: SamplingConfig = field(metadata=flat())
