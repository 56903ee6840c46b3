"""Everything that is known before a plan runs: how long its computations last here, the network, and what to expect."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dora_nb.costs.network import Flow, Network
from dora_nb.costs.resident import state_bytes_per_parameter
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Weights
from dora_nb.domain.profile import LayerProfile
from dora_nb.domain.run_record import Link, Ordering
from dora_nb.domain.run_timeline import PredictedTimeline
from dora_nb.domain.workload import Workload
from dora_nb.executor.control.orders import Target
from dora_nb.executor.device.streams import arrivals_s, over_requests
from dora_nb.executor.device.turns import PassedBy
from dora_nb.executor.emulation import Emulation, busy_core_s, imitated_network
from dora_nb.executor.faults.moves import Move
from dora_nb.executor.predict import (
    busy_bound_s,
    decoded_of,
    frozen_profile,
    machine_cluster,
    measured_table,
    predict,
    samples_of,
    targets_of,
)
from dora_nb.executor.system import usable_cores
from dora_nb.executor.tasks.scale import for_inference
from dora_nb.executor.tasks.task import Task

if TYPE_CHECKING:
    from dora_nb.executor.measuring.profile import LayerTimes

#: Least seconds a worker waits for a peer, and the margin on what an iteration is predicted to take at most.
PEER_S, MARGIN = 30.0, 3.0

#: A network as good as any, for a bound on time before the real one is known.
ASSUMED_LINK = Link(latency_s=1e-3, rate_bytes_per_s=1e7)


@dataclass(frozen=True)
class Expected:
    """What a plan is expected to do.

    Attributes
    ----------
    inference, training
        Predicted; no training, no second one.
    targets
        How long each device's computations last: of the inference batch, and of a training step.
    profile
        Seconds of every layer on every device; see :func:`~dora_nb.executor.predict.frozen_profile`.
    cluster
        The plan's devices on the network as it is here.
    ordering
        Whether transfers leave in the plan's order, and why.
    """

    inference: PredictedTimeline
    training: PredictedTimeline | None
    targets: Mapping[str, tuple[tuple[Target, ...], tuple[Target, ...]]]
    profile: dict[str, tuple[LayerProfile, ...]]
    cluster: Cluster
    ordering: Ordering

    @property
    def compared(self) -> PredictedTimeline:
        """Of a training step, or of the inference batch when the workload does not train."""
        return self.training or self.inference


@dataclass
class Rehearsal:
    """Times layers on this machine and predicts plans of one task from that.

    Attributes
    ----------
    task, workload
        What runs.
    cluster
        The planned devices.
    emulation
        What is imitated.
    """

    task: Task
    workload: Workload
    cluster: Cluster
    emulation: Emulation
    _timed: dict[tuple[bool, Weights | None, int], tuple[LayerTimes, ...]] = field(default_factory=dict)
    _timed_tokens: dict[tuple[Weights | None, int], tuple[LayerTimes, ...]] = field(default_factory=dict)
    _took_s: float = 0.0  # timing layers; what that had of a core, and everybody of all cores
    _had_s: float = 0.0
    _busy_s: float = 0.0

    def keep_time(self, plan: Plan, planned: tuple[Plan, Workload, CostTable], *, with_network: bool) -> None:
        """Relate this machine's seconds to the plan's from now on, and imitate the planned network if asked to.

        Parameters
        ----------
        plan
            In the form that is run.
        planned
            The same plan as planned, with its workload and compute times.
        with_network
            Whether to imitate the network.
        """
        _, _, table = self._tables(plan, self.cluster)[-1]
        as_planned, workload, planned_table = planned
        network, dilation = imitated_network(
            (as_planned, workload, self.cluster, planned_table),
            (plan, self.workload, table),
            with_network=with_network,
        )
        self.emulation = replace(self.emulation, network=network, dilation=dilation)

    @property
    def arrival_s(self) -> float | None:
        """Seconds here between the requests of a stream; None where there is none."""
        return None if self.workload.arrival_s is None else self.workload.arrival_s * self.emulation.dilation

    def make_room(self, plan: Plan) -> None:
        """Slow all devices down further where other programs have a part of this machine's cores.

        A computation must end before the emulated device's would, and takes as many times longer as its thread has to
        share its core. While the layers were timed, one thread had a part of a core, and other programs left a part of
        all cores to this run: the smaller one is taken to be what the run will have.
        """
        self._tables(plan, self.cluster)
        left = 1 - max(0.0, self._busy_s - self._had_s) / (self._took_s * (os.cpu_count() or 1))
        share = min(1.0, self._had_s / self._took_s, max(left, self._had_s / self._took_s / usable_cores()))
        factors = {device: factor / share for device, factor in self.emulation.factors.items()}
        self.emulation = replace(self.emulation, factors=factors)

    def longest_s(self, plan: Plan) -> float:
        """Seconds after which a wait for a peer is hopeless."""
        assumed = self.emulation.network or machine_cluster(plan, self.cluster, ASSUMED_LINK)
        tables = self._tables(plan, assumed)
        waits_s = self.task.requests * (self.arrival_s or 0.0)
        return PEER_S + waits_s + MARGIN * max(busy_bound_s(each, of, assumed, table) for each, of, table in tables)

    def expect(self, plan: Plan, link: Link | None, *, in_order: bool | None) -> Expected:
        """Predict a plan.

        Parameters
        ----------
        plan
            In the form that is run.
        link
            The network between two workers as probed, its imitation included; None with a single device.
        in_order
            Whether transfers leave in the plan's order. None: where that is predicted to be faster than as ready.
        """
        if link is None or not plan.transfer_order:
            return self._expect(plan, link, Ordering(in_order=False, asked=in_order is False))
        if in_order is not None:
            return self._expect(plan, link, Ordering(in_order=in_order, asked=True))
        ordered, ready = (self._expect(plan, link, Ordering(in_order=each, asked=False)) for each in (True, False))
        in_order_s, as_ready_s = ordered.compared.makespan_s, ready.compared.makespan_s
        faster = ordered if in_order_s < as_ready_s else ready
        ordering = faster.ordering.replace(predicted_in_order_s=in_order_s, predicted_as_ready_s=as_ready_s)
        return replace(faster, ordering=ordering)

    def _expect(self, plan: Plan, link: Link | None, ordering: Ordering) -> Expected:
        here = self._here(plan, link)
        passed_by: PassedBy = "receiver" if self.emulation.network is None else "sender"
        arrivals = () if self.arrival_s is None else arrivals_s(plan, self.task.requests, self.arrival_s)
        tables, predicted = self._tables(plan, here), []
        for each, of, table in tables:
            runs = each if ordering.in_order else each.replace(transfer_order=())
            predicted.append(
                predict(runs, of, here, table, passed_by=passed_by, arrivals_s=arrivals, cores=self.emulation.cores)
            )
        targets = {}
        for device in plan.devices:
            own = [targets_of(device, each, of, here, table) for each, of, table in tables]
            targets[device] = (own[0], own[1] if self.workload.trains else ())
        return Expected(
            inference=predicted[0],
            training=predicted[1] if self.workload.trains else None,
            targets=targets if self.emulation.devices else {},
            profile=frozen_profile(plan, here, tables[-1][2]),
            cluster=here.without(set(here.device_ids) - set(plan.devices)),
            ordering=ordering,
        )

    def copying(self, copies: Sequence[Move], cluster: Cluster) -> tuple[float, float]:
        """Bytes of copies, and the seconds that they take on a network, all sent at once."""
        each_bytes = state_bytes_per_parameter(self.workload)
        flows = [
            Flow(move.sender, receiver, float(self.workload.layers[move.layer].parameters * each_bytes))
            for move in copies
            for receiver in move.receivers
        ]
        hold = Network.of(cluster).exchange(flows)
        return hold.size_bytes, hold.duration_s

    def _here(self, plan: Plan, link: Link | None) -> Cluster:
        """The plan's devices on the imitated network, with what this machine adds to it; or on loopback."""
        imitated = self.emulation.network
        if imitated is None or link is None:
            return machine_cluster(plan, self.cluster, link)
        extra_s = self.emulation.overhead_s(link, plan)
        domains = tuple(each.replace(latency_s=each.latency_s + extra_s) for each in imitated.domains)
        return imitated.replace(domains=domains)

    def _tables(self, plan: Plan, cluster: Cluster) -> list[tuple[Plan, Workload, CostTable]]:
        """Of inference, which keeps no graph and is timed apart, and of training: plan, workload, times."""
        alone, of = for_inference(plan, self.workload)
        passes = [(over_requests(alone, self.task.requests), of)]
        passes += [(plan, self.workload)] if self.workload.trains else []
        return [(each, of, self._table(plan, each, of, cluster)) for each, of in passes]

    def _table(self, plan: Plan, passed: Plan, of: Workload, cluster: Cluster) -> CostTable:
        """How long layers take, held as the plan's stages hold them."""
        factors = dict.fromkeys(cluster.device_ids, 1.0) | dict(self.emulation.factors)
        tables = {
            weights: measured_table(self._times(plan, weights, trains=of.trains), passed, cluster, factors)
            for weights in {None, *(stage.weights for stage in plan.stages)}
        }
        return replace(tables[None], narrower={weights: each for weights, each in tables.items() if weights})

    def _times(self, plan: Plan, weights: Weights | None, *, trains: bool) -> tuple[LayerTimes, ...]:
        """Of every layer, for the numbers of samples that the plan uses; what was timed is not timed again."""
        from dora_nb.executor.measuring.profile import LayerTimes, profile_layers

        samples, decoded = samples_of(plan), decoded_of(plan) if self.task.decode_steps else []
        new = [each for each in samples if (trains, weights, each) not in self._timed]
        new_decoded = [each for each in decoded if (weights, each) not in self._timed_tokens]
        if new or new_decoded:
            mode = "training" if trains else "generate" if self.task.generates else "inference"
            began_s, had_s, busy_s = time.perf_counter(), time.thread_time(), busy_core_s()
            times = profile_layers(self.task.replace(mode=mode), new or samples[:1], new_decoded, weights)
            self._took_s += time.perf_counter() - began_s
            self._had_s += time.thread_time() - had_s
            self._busy_s += busy_core_s() - busy_s
            self._timed |= {(trains, weights, count): times for count in new}
            self._timed_tokens |= {(weights, count): times for count in new_decoded}
        known = [self._timed[trains, weights, count] for count in samples]
        return tuple(
            LayerTimes(
                forward_s={count: each[layer].forward_s[count] for count, each in zip(samples, known, strict=True)},
                backward_s={
                    count: each[layer].backward_s[count] for count, each in zip(samples, known, strict=True) if trains
                },
                step_s=known[0][layer].step_s,
                token_s={count: (self._timed_tokens[weights, count][layer].token_s or {})[count] for count in decoded},
            )
            for layer in range(self.task.layer_count)
        )
