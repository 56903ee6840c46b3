"""Every operation of a plan with its times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dora_nb.costs.operations import TOKEN_KINDS, Kind, Operations, Timing
from dora_nb.costs.timing import round_legs, token_chain
from dora_nb.costs.token_rounds import every_leg
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload


@dataclass(frozen=True)
class TimelineEntry:
    """One operation with its times.

    Attributes
    ----------
    kind, stage, micro_batch, part
        Which operation.
    start_s, end_s
        From when to when, from the iteration's start.
    places
        The devices that compute, or the media (ports) that are held.
    """

    kind: Kind
    stage: int
    micro_batch: int
    part: int
    start_s: float
    end_s: float
    places: tuple[str, ...]


def timeline_of(
    plan: Plan, workload: Workload, operations: Operations, timing: Timing, start_s: list[float]
) -> tuple[TimelineEntry, ...]:
    """Every operation with its times, by start; tokens step by step.

    Parameters
    ----------
    plan, workload
        Whose timeline.
    operations, timing
        What is done, and how long each takes.
    start_s
        When each operation starts, in seconds.
    """
    entries = []
    for operation, kind, start in zip(operations.operations, operations.classes, start_s, strict=True):
        if operation.kind in (*TOKEN_KINDS, "follow"):
            continue
        stage = plan.stages[operation.stage]  # HOSTED is -1: the last stage's devices run it
        places = tuple(timing.holds[kind].seconds) if kind in timing.holds else stage.devices
        entries.append(TimelineEntry(*operation, start, start + timing.duration_s[kind], places))
    entries.extend(_steps(plan, workload, operations, timing, start_s))
    return tuple(sorted(entries, key=lambda entry: (entry.start_s, entry.end_s, entry.kind, entry.stage)))


def _steps(
    plan: Plan, workload: Workload, operations: Operations, timing: Timing, start_s: list[float]
) -> Iterable[TimelineEntry]:
    """The rounds after the first token one by one, numbered like micro-batches; the operations hold them in sums."""
    chain = token_chain(plan, workload)
    if not chain:
        return
    begin_s, legs = start_s[operations.index[chain[0]]], round_legs(plan, workload, timing)
    for going in every_leg(legs, plan.token_groups, workload.decode_steps):
        operation = chain[going.leg]._replace(micro_batch=going.step * plan.token_groups + going.group)
        stage, from_s = plan.stages[operation.stage], begin_s + going.start_s
        places = tuple(timing.holds[operation.cls].seconds) if operation.cls in timing.holds else stage.devices
        yield TimelineEntry(*operation, from_s, from_s + legs[going.leg].duration_s, places)
