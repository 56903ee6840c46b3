"""The only place that predicts: compute time, memory, network time and energy of a plan."""

from dora_nb.costs.evaluate import Evaluation, evaluate
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.timeline import TimelineEntry

__all__ = ["CostTable", "Evaluation", "TimelineEntry", "cost_table", "evaluate"]
