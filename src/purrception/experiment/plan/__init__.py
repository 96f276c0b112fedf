"""The cost of a run, estimated before it is started."""

from purrception.experiment.plan.cost import plan
from purrception.experiment.plan.report import Plan, PlanOptions
