"""What a run will cost before it is started."""

from purrception.plan.cost import plan
from purrception.plan.record import Plan, PlanOptions

__all__ = ["Plan", "PlanOptions", "plan"]
