"""The only place that predicts: compute time, memory, network time and energy of a plan.

- all figures of a plan: ``evaluate``, ``details``, ``timeline``
- computing: ``table``, ``measured``, ``compute_times``, ``shards``, ``buckets``
- memory: ``memory``, ``resident``
- network: ``network``, ``transfers``, ``media``, ``airtime``, ``link_probe``
- one iteration over time: ``operations``, ``precedence``, ``timing``, ``start_times``, ``schedule``, ``token_rounds``
- streams and requests: ``stream``, ``sharing``, ``serving``
- what changes: ``conditions``, ``switching``
- runs: ``energy``, ``comparison``
- problems in own numbers: ``placement``
"""

from dora_nb.costs.evaluate import Evaluation, evaluate
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.timeline import TimelineEntry

__all__ = ["CostTable", "Evaluation", "TimelineEntry", "cost_table", "evaluate"]
