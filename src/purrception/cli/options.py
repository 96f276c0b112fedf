"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, field

from purrception.cli.parsing import flat
from purrception.flow.settings import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample; what is left out is the run's own setting."""

    sampling: SamplingConfig = field(metadata=flat())
