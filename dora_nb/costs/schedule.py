"""The explicit schedule of a plan's transfers: who sends what to whom, when, over which media."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from dora_nb.costs.timeline import TimelineEntry
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import HOSTED, ScheduledTransfer, TransferKind
from dora_nb.domain.workload import Workload

_TRANSFERS = get_args(TransferKind)


def scheduled_transfers(
    plan: Plan, workload: Workload, timeline: Iterable[TimelineEntry]
) -> tuple[ScheduledTransfer, ...]:
    """The transfers of a timeline, by start, with their ends in words."""
    found = []
    for entry in timeline:
        if entry.kind not in _TRANSFERS:
            continue
        senders, receivers = _ends(plan, workload, entry.kind, entry.stage)
        found.append(
            ScheduledTransfer(
                kind=entry.kind,
                stage=entry.stage,
                micro_batch=entry.micro_batch,
                part=entry.part,
                senders=senders,
                receivers=receivers,
                media=entry.places,
                start_s=entry.start_s,
                end_s=entry.end_s,
            )
        )
    return tuple(found)


def _ends(plan: Plan, workload: Workload, kind: str, stage: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Devices that send and devices that receive."""
    own = plan.stages[stage]  # HOSTED is -1: the last stage's devices
    first, last = plan.stages[0], plan.stages[-1]
    following = first if stage in (HOSTED, len(plan.stages) - 1) else plan.stages[stage + 1]
    match kind:
        case "activation" | "token":  # chosen tokens go from the last stage back to the first
            return own.senders, following.devices
        case "gradient":
            return following.senders, own.devices
        case "input" | "label":
            return (workload.source or "",), own.devices
        case "output":
            return own.senders, (workload.sink or "",)
        case "tied-exchange":
            return (first.leader, last.leader), (last.leader, first.leader)
        case "tied-reduce":
            return own.devices, (own.leader,)
        case "tied-broadcast":
            return (own.leader,), own.devices
    return own.devices, own.devices
