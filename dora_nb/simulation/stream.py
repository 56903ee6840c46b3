"""Plays a stream: request after request of one plan, overlapping, event by event, in a world that may change."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dora_nb.costs.operations import Operation, Operations
from dora_nb.costs.stream import passes_by_stage
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.timeline import TimelineEntry
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.simulation.engine import Sharing, run_step
from dora_nb.simulation.steps import Parts, StepModel
from dora_nb.simulation.world import World
from dora_nb.units import counted, format_seconds


@dataclass(frozen=True)
class StreamRun:
    """What happened to the requests of a stream.

    Attributes
    ----------
    arrivals_s
        When each request arrived.
    latencies_s
        From there to its last output; infinite for a request that never came to its end.
    """

    arrivals_s: tuple[float, ...]
    latencies_s: tuple[float, ...]

    @property
    def completed(self) -> bool:
        """Whether every request came to its end."""
        return math.inf not in self.latencies_s

    def late(self, latency_s: float) -> int:
        """How many requests took longer than that."""
        return sum(each > latency_s * (1 + ROUNDING) for each in self.latencies_s)

    def __repr__(self) -> str:
        over = [each for each in self.latencies_s if each < math.inf]
        lost = f", {len(self.latencies_s) - len(over)} lost" if len(over) < len(self.latencies_s) else ""
        if not over:
            return f"StreamRun of {counted(len(self.latencies_s), 'request')}{lost}"
        usual, worst = format_seconds(statistics.median(over)), format_seconds(max(over))
        return f"StreamRun of {counted(len(self.latencies_s), 'request')}, {usual} in the median, {worst} at most{lost}"


def play_stream(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    *,
    requests: int = 100,
    arrivals_s: Sequence[float] | None = None,
    world: World | None = None,
    table: CostTable | None = None,
    sharing: Sharing = "ordered",
) -> StreamRun:
    """Simulate the requests of a stream that one plan serves, from an idle cluster on.

    Every stage takes requests one after the other, and every medium its transfers in the plan's order, period after
    period, each as soon as it may begin. Where nothing changes and requests arrive evenly, their latencies come to the
    one that was predicted and never exceed it. Who serves requests that arrive as they please keeps the same order: a
    transfer waits for those before it also when their request is late (our own reading of the plan).

    Parameters
    ----------
    plan
        With its transfer order.
    workload
        In mode ``stream``.
    cluster
        What the plan was made for.
    requests
        How many.
    arrivals_s
        When each arrives, from 0 on and in order, in place of ``requests`` evenly spaced ones.
    world
        Of the cluster; None: nothing changes.
    table
        Compute times; None: the roofline estimate.
    sharing
        As for :func:`~dora_nb.simulation.run.simulate`.

    Returns
    -------
    StreamRun

    Raises
    ------
    InputError
        If the workload is no stream, the plan does not fit it, or there are no requests in order.
    """
    if workload.arrival_s is None:
        raise InputError("workload.mode", workload.mode, "'stream'; other modes are played by simulate()")
    if arrivals_s is None:
        if requests < 1:
            raise InputError("requests", requests, "1 or more")
        arrivals_s = [number * workload.arrival_s for number in range(requests)]
    arrivals_s = tuple(map(float, arrivals_s))
    in_order = all(earlier <= later for earlier, later in itertools.pairwise((0.0, *arrivals_s)))
    if not arrivals_s or not in_order or not arrivals_s[-1] < math.inf:
        raise InputError("arrivals_s", arrivals_s[:5], "moments from 0 on and in order, at least one")
    # More requests follow, so that the last ones meet as many others as those before.
    following = max((transfer.lag for transfer in plan.transfer_order), default=0)
    later_s = [arrivals_s[-1] + number * workload.arrival_s for number in range(1, following + 1)]
    step = StepModel(plan, workload, cluster, cost_table(workload, cluster) if table is None else table)
    model = _Requests(step, (*arrivals_s, *later_s))
    result = run_step(model, world or World(cluster), sharing=sharing, timeline=True)
    return StreamRun(arrivals_s, model.latencies_s(result.entries)[: len(arrivals_s)])


@dataclass(frozen=True)
class _Requests:
    """All operations of all requests, and behind them an arrival of each; operation i of request r is r x n + i."""

    one: StepModel
    arrivals_s: tuple[float, ...]
    _parts: dict[tuple[float, ...], Parts] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def cluster(self) -> Cluster:
        """Its devices, then its domains, are the channels."""
        return self.one.cluster

    @property
    def resources(self) -> tuple[str, ...]:
        """Names of everything that transfers hold."""
        return self.one.resources

    @property
    def devices(self) -> tuple[int, ...]:
        """Places in the cluster of the devices without which no request can end."""
        return self.one.devices

    def devices_of(self, stage: int) -> tuple[str, ...]:
        """Who computes a stage."""
        return self.one.devices_of(stage)

    @cached_property
    def operations(self) -> Operations:
        """Precedence within a request behind its arrival, and from a stage's last pass to the next request's first."""
        own, requests = self.one.operations, range(len(self.arrivals_s))
        count, arrivals = len(own.operations), len(requests) * len(own.operations)
        names: list[Operation] = []
        before: list[tuple[int, ...]] = []
        free_after = {passes[0]: own.sums_behind(passes[-1]) for passes in passes_by_stage(own).values()}
        for request in requests:
            for index, (name, earlier) in enumerate(zip(own.operations, own.predecessors, strict=True)):
                waits_for = [request * count + each for each in earlier] or [arrivals + request]
                if request and index in free_after:
                    waits_for.append((request - 1) * count + free_after[index])
                names.append(name._replace(micro_batch=len(names)))  # tells one from the other
                before.append(tuple(waits_for))
        names += [Operation("input", 0, arrivals + request) for request in requests]
        before += [()] * len(requests)
        return Operations(tuple(names), tuple(before))

    @cached_property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Operations in the order in which they enter each resource: by the period in which they do, and as planned."""
        count, plan = len(self.one.operations.operations), self.one.plan
        lags = {
            self.one.operations.index[Operation(each.kind, each.stage, each.micro_batch, each.part)]: each.lag
            for each in plan.transfer_order
        }
        turns = []
        for own in self.one.turns:
            slots = [
                (request + lags[index], place, request * count + index)
                for place, index in enumerate(own)
                for request in range(len(self.arrivals_s))
            ]
            turns.append(tuple(operation for _, _, operation in sorted(slots)))
        return tuple(turns)

    @cached_property
    def network_j(self) -> tuple[float, ...]:
        """Joules of carrying each operation's bytes."""
        requests = len(self.arrivals_s)
        return (*self.one.network_j * requests, *(0.0 for _ in range(requests)))

    def parts(self, device_rates: Sequence[float]) -> Parts:
        """The parts when devices reach their media at rates multiplied by these factors."""
        key = tuple(device_rates)
        if key not in self._parts:
            self._parts[key] = self._repeated(self.one.parts(key))
        return self._parts[key]

    def _repeated(self, own: Parts) -> Parts:
        requests = range(len(self.arrivals_s))
        parts, operations = len(own.operation), len(own.of)
        of = [tuple(request * parts + part for part in each) for request in requests for each in own.of]
        return Parts(
            of=(*of, *(() for _ in requests)),
            operation=tuple(request * operations + each for request in requests for each in own.operation),
            channel=own.channel * len(requests),
            resource=own.resource * len(requests),
            work_s=own.work_s * len(requests),
            latency_s=(*own.latency_s * len(requests), *self.arrivals_s),
        )

    def latencies_s(self, entries: Sequence[TimelineEntry]) -> tuple[float, ...]:
        """From arrival to last output of every request; infinite where something of it never ended."""
        count, requests = len(self.one.operations.operations), len(self.arrivals_s)
        ends_s, left = [0.0] * requests, [count] * requests
        for entry in entries:
            request = entry.micro_batch // count
            if request < requests:  # those behind are arrivals
                ends_s[request] = max(ends_s[request], entry.end_s)
                left[request] -= 1
        return tuple(
            end_s - arrival_s if over else math.inf
            for end_s, arrival_s, over in zip(ends_s, self.arrivals_s, (not each for each in left), strict=True)
        )
