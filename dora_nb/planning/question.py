"""A question in one piece, and the ways to change it: other limits, more memory, other rates, other devices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.session import Case, Session
from dora_nb.solvers import SolverChoice


@dataclass(frozen=True)
class Question:
    """What is asked, the plans to consider included, so that changed questions consider the same ones.

    Attributes
    ----------
    workload, cluster, qoe
        What to run, on what, and how well.
    table
        Measured compute times of the cluster's devices; None: the roofline estimate.
    space
        Plans to consider.
    overlap
        Whether stages compute while they send.
    solver
        For transfer schedules that bounds leave open.
    session
        What is kept between this and the questions made from it.
    """

    workload: Workload
    cluster: Cluster
    qoe: QoE
    table: CostTable | None
    space: SearchSpace
    overlap: bool = True
    solver: SolverChoice = "auto"
    session: Session = field(default_factory=Session, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        workload: Workload,
        cluster: Cluster,
        qoe: QoE,
        table: CostTable | None = None,
        space: SearchSpace | None = None,
        overlap: bool = True,
        solver: SolverChoice = "auto",
        session: Session | None = None,
    ) -> Question:
        """A question about the given space, or the default one of this workload on this cluster.

        Parameters
        ----------
        workload, cluster, qoe
            What is computed on what, and the limits and the objective.
        table
            Compute times; None: the roofline's.
        space
            Plans to consider; None: the default ones of this workload on this cluster.
        overlap
            Whether stages compute while they send.
        solver
            Who solves the programs.
        session
            What is known from questions before; None: nothing.
        """
        if space is None:
            space = Problem.of(workload, cluster, qoe.energy_accounting, qoe=qoe, table=table, overlap=overlap).space
        return cls(workload, cluster, qoe, table, space, overlap, solver, session or Session())

    @cached_property
    def case(self) -> Case:
        """What is known of this question's workload and cluster."""
        return self.session.case(self)

    @cached_property
    def problem(self) -> Problem:
        """What a search reads."""
        return self.case.problem_of(self.qoe)

    def new_problem(self) -> Problem:
        """The problem, computed from the beginning."""
        return Problem.of(
            self.workload,
            self.cluster,
            self.qoe.energy_accounting,
            qoe=self.qoe,
            table=self.table,
            space=self.space,
            overlap=self.overlap,
        )

    def covers(self, other: Question, gone: Collection[str]) -> bool:
        """Whether every plan of another question, whose cluster some devices have left, is one of this one's.

        The two may differ in rates and speeds, and the other may have less memory. Rates must all have changed alike:
        else another device may lead a sum there.
        """
        if (self.workload, self.space, self.overlap) != (other.workload, other.space, other.overlap):
            return False
        if (self.table is None) != (other.table is None) or len(gone) == len(self.cluster.devices):
            return False
        left = self.cluster.without(gone) if gone else self.cluster
        if len(left.devices) != len(other.cluster.devices) or len(left.domains) != len(other.cluster.domains):
            return False
        devices = zip(left.devices, other.cluster.devices, strict=True)
        domains = zip(left.domains, other.cluster.domains, strict=True)
        return all(_no_more(*pair) for pair in devices) and _alike(list(domains))

    def with_qoe(self, qoe: QoE) -> Question:
        """The question under other limits."""
        return replace(self, qoe=qoe)

    def with_memory(self, usable_bytes: Mapping[str, float]) -> Question:
        """The question with so many usable bytes on some devices."""
        devices = tuple(
            device.replace(memory_bytes=usable_bytes[device.id], usable_memory_fraction=1.0)
            if device.id in usable_bytes
            else device
            for device in self.cluster.devices
        )
        return replace(self, cluster=self.cluster.replace(devices=devices))

    def with_rates(self, faster: Callable[[float], float], device: str | None = None) -> Question:
        """The question with other rates: all of the network, or those at which one device reaches its own medium.

        Gateways and links count among all rates. A device whose links are its own has no single rate to change.
        """

        def changed(rates: Mapping[str, float]) -> dict[str, float]:
            return {name: faster(rate) if device in (None, name) else rate for name, rate in rates.items()}

        domains = tuple(
            domain.replace(
                rates_bytes_per_s=changed(domain.rates_bytes_per_s),
                down_rates_bytes_per_s=changed(domain.down_rates_bytes_per_s),
                links_bytes_per_s={
                    a: changed(to) if device is None else to for a, to in domain.links_bytes_per_s.items()
                },
            )
            for domain in self.cluster.domains
        )
        return replace(self, cluster=self.cluster.replace(domains=domains))

    def without(self, names: Collection[str]) -> Question:
        """The question on a cluster that some devices have left, and their limits with them."""
        ids = self.cluster.device_ids
        stay = [index for index, name in enumerate(ids) if name not in names]
        left = self.cluster.without(names)
        battery_j = {name: joules for name, joules in self.qoe.battery_j.items() if name not in names}
        price = self.qoe.battery_price if battery_j else None
        reduced = self.with_qoe(self.qoe.replace(battery_j=battery_j, battery_price=price))
        return reduced._on(stay, list(left.devices), left.domains)

    def with_another(self, name: str) -> Question:
        """The question with one more device like a given one: on its medium, at its rate, on as large a battery.

        Where a stage may have all devices as replicas, it may have the new one too. Among links of their own it has
        the same to all others, and to the given one, our own choice, the slowest of them.
        """
        ids = self.cluster.device_ids
        taken = {*ids, *(domain.id for domain in self.cluster.domains)}
        added = next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)
        members = [*self.cluster.devices, self.cluster.device(name).replace(id=added)]
        domains = tuple(
            _with_another(domain, name, added) if name in domain.members else domain for domain in self.cluster.domains
        )
        grown = self._on([*range(len(ids)), ids.index(name)], members, domains)
        if name in self.qoe.battery_j:
            grown = grown.with_qoe(self.qoe.replace(battery_j=self.qoe.battery_j | {added: self.qoe.battery_j[name]}))
        if self.space.most_replicas < len(ids):
            return grown
        return replace(grown, space=replace(self.space, most_replicas=len(members)))

    def _on(self, like: list[int], members: list[Device], domains: tuple[ContentionDomain, ...]) -> Question:
        """Other devices; ``like`` says after which present one each is modelled."""
        table = None if self.table is None else self.table.of_devices(np.array(like))
        return replace(self, cluster=self.cluster.replace(devices=tuple(members), domains=domains), table=table)


def _no_more(ours: Device, theirs: Device) -> bool:
    """Whether a device has at most another one's memory, and all else but its speed alike."""
    speed = ("flops_per_s", "memory_bytes_per_s", "layer_overhead_s")
    changing = (*speed, "memory_bytes", "usable_memory_fraction", "sources")
    changed = theirs.replace(**{name: getattr(ours, name) for name in changing})
    return changed == ours and theirs.usable_memory_bytes <= ours.usable_memory_bytes


def _alike(domains: list[tuple[ContentionDomain, ContentionDomain]]) -> bool:
    """Whether media differ in their rates only, and those by one factor."""
    names = ("rates_bytes_per_s", "down_rates_bytes_per_s", "links_bytes_per_s")
    if any(theirs.replace(**{name: getattr(ours, name) for name in names}) != ours for ours, theirs in domains):
        return False
    pairs = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in domains for name in names]
    for links in [pair for pair in pairs if any(isinstance(rate, Mapping) for rate in pair[0].values())]:
        pairs.extend((rates, links[1].get(name, {})) for name, rates in links[0].items())
        pairs.remove(links)
    if any(ours.keys() != theirs.keys() for ours, theirs in pairs):
        return False
    factors = [theirs[name] / rate for ours, theirs in pairs for name, rate in ours.items()]
    return not factors or max(factors) <= min(factors) * (1 + 1e-12)


def _with_another(domain: ContentionDomain, name: str, added: str) -> ContentionDomain:
    """A domain with one more member that is attached as a present one is."""
    if domain.kind != "links":
        rates, down = domain.rates_bytes_per_s, domain.down_rates_bytes_per_s
        return domain.replace(
            rates_bytes_per_s=rates | {added: rates[name]},
            down_rates_bytes_per_s=down | {added: down[name]} if down else down,
        )
    links, link = {a: dict(to) for a, to in domain.links_bytes_per_s.items()}, domain.link_bytes_per_s
    others = [other for other in domain.members if other != name]
    away = {other: link(name, other) or 0.0 for other in others}
    back = {other: link(other, name) or 0.0 for other in others}
    for other in others:
        links.setdefault(other, {})[added] = back[other]
    links[added] = away | {name: min(*away.values(), *back.values())}
    return domain.replace(links_bytes_per_s=links)
