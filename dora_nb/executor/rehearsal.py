"""Everything that is known before a plan runs: how long its computations last here, the network, and what to expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.profile import LayerProfile
from dora_nb.domain.run_record import Link, PredictedTimeline
from dora_nb.domain.workload import Workload
from dora_nb.executor.emulation import Emulation, imitated_network
from dora_nb.executor.messages import Target
from dora_nb.executor.predict import (
    busy_bound_s,
    frozen_profile,
    machine_cluster,
    measured_table,
    predict,
    targets_of,
)
from dora_nb.executor.scale import for_inference
from dora_nb.executor.task import Task

if TYPE_CHECKING:
    from dora_nb.executor.profile import LayerTimes

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
    """

    inference: PredictedTimeline
    training: PredictedTimeline | None
    targets: Mapping[str, tuple[tuple[Target, ...], tuple[Target, ...]]]
    profile: dict[str, tuple[LayerProfile, ...]]
    cluster: Cluster


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
    _timed: dict[tuple[bool, int], tuple[LayerTimes, ...]] = field(default_factory=dict)

    def imitate_network(self, plan: Plan, planned: tuple[Plan, Workload, CostTable]) -> None:
        """Imitate the planned network from now on.

        Parameters
        ----------
        plan
            In the form that is run.
        planned
            The same plan as planned, with its workload and compute times.
        """
        _, _, table = self._tables(plan, self.cluster)[-1]
        as_planned, workload, planned_table = planned
        network, dilation = imitated_network(
            (as_planned, workload, self.cluster, planned_table), (plan, self.workload, table)
        )
        self.emulation = replace(self.emulation, network=network, dilation=dilation)

    def longest_s(self, plan: Plan) -> float:
        """Seconds after which a wait for a peer is hopeless."""
        assumed = self.emulation.network or machine_cluster(plan, self.cluster, ASSUMED_LINK)
        tables = self._tables(plan, assumed)
        return PEER_S + MARGIN * max(busy_bound_s(each, of, assumed, table) for each, of, table in tables)

    def expect(self, plan: Plan, link: Link | None, *, in_order: bool) -> Expected:
        """Predict a plan.

        Parameters
        ----------
        plan
            In the form that is run.
        link
            The network between two workers as probed, its imitation included; None with a single device.
        in_order
            Whether transfers take turns.
        """
        here = self._here(plan, link)
        turn_s = link.latency_s if in_order and link is not None else None
        tables = self._tables(plan, here)
        predicted = [predict(each, of, here, table, turn_s=turn_s) for each, of, table in tables]
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
        )

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
        passes = [for_inference(plan, self.workload)] + ([(plan, self.workload)] if self.workload.trains else [])
        factors = dict.fromkeys(cluster.device_ids, 1.0) | dict(self.emulation.factors)
        return [
            (each, of, measured_table(self._times(plan, trains=of.trains), each, cluster, factors))
            for each, of in passes
        ]

    def _times(self, plan: Plan, *, trains: bool) -> tuple[LayerTimes, ...]:
        """Of every layer, for the numbers of samples that the plan uses; what was timed is not timed again."""
        from dora_nb.executor.profile import LayerTimes, profile_layers

        samples = {replica.samples for stage in plan.stages for replica in stage.replicas}
        new = [each for each in sorted(samples) if (trains, each) not in self._timed]
        if new:
            mode = "training" if trains else "inference"
            times = profile_layers(self.task.replace(mode=mode), new)
            for count in new:
                self._timed[trains, count] = times
        known = [self._timed[trains, count] for count in sorted(samples)]
        return tuple(
            LayerTimes(
                forward_s={
                    count: each[layer].forward_s[count] for count, each in zip(sorted(samples), known, strict=True)
                },
                backward_s={
                    count: each[layer].backward_s[count]
                    for count, each in zip(sorted(samples), known, strict=True)
                    if trains
                },
                step_s=known[0][layer].step_s,
            )
            for layer in range(self.task.layer_count)
        )
