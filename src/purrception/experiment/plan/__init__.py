"""What a run will cost before it is started."""

from purrception.experiment.plan.cost import plan
from purrception.experiment.plan.record import Plan, PlanOptions

__all__ = ["Plan", "PlanOptions", "plan"]
