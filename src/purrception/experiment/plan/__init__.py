"""The cost of a run, estimated before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.experiment.plan.cost import plan
    from purrception.experiment.plan.report import Plan
    from purrception.experiment.settings import PlanOptions

__getattr__, __dir__ = lazy_names(__name__)
