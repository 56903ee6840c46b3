"""Planning for several sites, each with a network of its own: a site becomes one device of the next level.

A site is planned by itself for an interval of layers, by the same search as any cluster: once for the whole batch and
once for one micro-batch. What that proves bounds every chain of sites (:mod:`~dora_nb.formulation.fleets.site_chain`).
The chain with the least bound is refined until all of its intervals are planned: sites are only asked what matters, and
what they cannot do for some layers they cannot do for more. The plans of a chain's sites, one behind the other, are a
plan of the whole cluster like any other, scheduled by list and predicted exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.fleets.site_chain import Leg, SiteChain, crossing, path_bound, work_bound
from dora_nb.formulation.problem import Problem
from dora_nb.planning.ask import best
from dora_nb.planning.fleets.answer import LatencyHunt, refuse_other_questions
from dora_nb.planning.fleets.large import LargeHunt, is_large
from dora_nb.planning.question import Question

#: Sites up to which all orders of them are looked at.
MOST_SITES = 6

METHOD = "sites planned one by one, and the least chain of them"

#: Of the gap that is good enough, the part that a site's own answers may have, and that the choice of a chain may have.
OF_SITES, OF_CHAINS = 0.5, 0.1


def sites_of(cluster: Cluster) -> tuple[Cluster, ...]:
    """What hangs at the top of the tree of domains, each as a cluster; one site where there is no more than one domain.

    A device at the top is a site by itself.
    """
    below = {name for domain in cluster.domains for name in domain.members}
    top = next((domain for domain in cluster.domains if domain.id not in below), None)
    if top is None or len(cluster.domains) == 1:
        return (cluster,)
    return tuple(_below(cluster, member) for member in top.members)


def _below(cluster: Cluster, member: str) -> Cluster:
    """The part of a cluster that hangs at one member of a domain."""
    names, domains = {member}, []
    while True:
        more = [domain for domain in cluster.domains if domain.id in names and domain not in domains]
        if not more:
            break
        domains += more
        names.update(name for domain in more for name in domain.members)
    devices = tuple(device for device in cluster.devices if device.id in names)
    return Cluster(name=f"{cluster.name}/{member}", devices=devices, domains=tuple(domains))


def are_sites(problem: Problem) -> bool:
    """Whether a problem is one of several sites, few enough to order."""
    return 1 < len(sites_of(problem.cluster)) <= MOST_SITES


def check_sites(problem: Problem) -> None:
    """Refuse what cannot be asked of several sites.

    Raises
    ------
    InputError
        That says which questions can.
    """
    refuse_other_questions(
        problem,
        {"mode": (problem.workload.mode, problem.workload.mode in ("inference", "stream"))},
        "in several sites, too many for the exact search: the lowest latency of inference or of a stream, without "
        "limits on energy, batteries or prices; or fewer devices",
    )


class Known(NamedTuple):
    """What a site was found to do: no plan is below the bound; the stages of a good one, if any."""

    bound_s: float
    stages: tuple[Stage, ...]


@dataclass
class SitesHunt(LatencyHunt):
    """The steps of an answer, in the order they are taken."""

    asked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_sites(self.problem)
        cluster, workload, table = self.problem.cluster, self.problem.workload, self.problem.table
        self.sites = sites_of(cluster)
        index = {name: place for place, name in enumerate(cluster.device_ids)}
        self.tables = [table.of_devices(np.array([index[name] for name in each.device_ids])) for each in self.sites]
        self._known: dict[tuple[int, Leg, bool, bool], Known] = {}
        self.chains = {size: self._chain(size) for size in self.problem.space.micro_batch_sizes}
        self._done: set[tuple[int, tuple[Leg, ...]]] = set()
        self._workload = workload

    def _chain(self, size: int) -> SiteChain:
        """What counting says of sites, before any is planned."""
        workload, network, most = self.problem.workload, self.problem.network, self.problem.space.most_replicas
        names = [site.device_ids for site in self.sites]
        one_s = np.stack([path_bound(table, size, most) for table in self.tables])
        period_s = workload.arrival_s or np.inf
        work_s = np.stack([work_bound(table, workload.batch, size) for table in self.tables])
        all_s = np.where(work_s > period_s * (1 + ROUNDING), np.inf, np.maximum(one_s, work_s))
        batches, inner = workload.batch // size, [workload.cut_bytes(cut) for cut in range(1, len(workload.layers))]
        cut_bytes = size * np.array([0.0, *inner, 0.0])
        source = names if workload.source is None else [[workload.source]] * len(names)
        sink = names if workload.sink is None else [[workload.sink]] * len(names)
        input_bytes, output_bytes = size * workload.input_bytes, size * workload.output_bytes
        enters = [
            crossing(network, a, b).of(input_bytes, batches, period_s) for a, b in zip(source, names, strict=True)
        ]
        leaves = [crossing(network, a, b).of(output_bytes, batches, period_s) for a, b in zip(names, sink, strict=True)]
        hops = [[crossing(network, a, b).of(cut_bytes, batches, period_s) for b in names] for a in names]
        return SiteChain(
            all_s=all_s,
            one_s=one_s,
            enter_s=np.stack(enters, axis=1),
            leave_s=np.stack(leaves, axis=1),
            hop_s=np.stack([np.stack(row, axis=1) for row in hops], axis=1),
        )

    def run(self) -> None:
        """Refine the chain with the least bound until it is planned through, or good enough."""
        self.say(f"{len(self.sites)} sites: {', '.join(map(str, (len(site.devices) for site in self.sites)))} devices")
        routes = {size: chain.best(np.inf, self.gap * OF_CHAINS) for size, chain in self.chains.items()}
        while True:
            self.bound_s = max(self.bound_s, min(self.best_s, *(each.bound_s for each in routes.values())))
            self.on_bound(self.best_s, self.bound_s)
            # A chain that is planned through has the least bound of its size: sites do not tell more of that size.
            left = {size: each for size, each in routes.items() if each.legs and (size, each.legs) not in self._done}
            if not left or self.best_s * (1 - self.gap) <= self.bound_s or self.deadline.passed:
                break
            size = min(left, key=lambda each: left[each].bound_s)
            for leg in left[size].legs:
                self._plan(size, leg)
            self._finish(size, left[size].legs)
            self._done.add((size, left[size].legs))
            routes[size] = self.chains[size].best(self.best_s, self.gap * OF_CHAINS)
        self.say(f"{self.asked} questions about sites, {len(self._done)} chains of them planned through")

    # ------------------------------------------------------------------ one site

    def _plan(self, size: int, leg: Leg) -> None:
        """Plan an interval of a site, and keep what that says of all longer ones."""
        chain = self.chains[size]
        for whole, seconds in ((True, chain.all_s), (False, chain.one_s)):
            known = self._answer(size, leg, whole=whole)
            longer = seconds[leg.site, : leg.first + 1, leg.stop :]
            np.maximum(longer, known.bound_s, out=longer)
        np.maximum(chain.all_s, chain.one_s, out=chain.all_s)

    def _answer(self, size: int, leg: Leg, *, whole: bool, with_ends: bool = False) -> Known:
        """The least makespan of a batch or request, or of one micro-batch, on one site with all there at the start.

        Only without what enters and leaves counted as memory is it true that more layers take no less.
        """
        batch = self._workload.batch if whole else size
        key = size, leg, whole and batch > size, with_ends
        if key not in self._known:
            self.asked += 1
            self._known[key] = self._ask(self._part(leg, batch, with_ends=with_ends), size, leg)
        return self._known[key]

    def _part(self, leg: Leg, batch: int, *, with_ends: bool) -> Workload:
        """A leg's layers as a workload of their own, whose inputs and outputs take no time, and memory if asked for."""
        work = self._workload
        layers, count = work.layers[leg.first : leg.stop], len(work.layers)
        entering = work.cut_bytes(leg.first) if leg.first else work.input_bytes
        leaving = work.cut_bytes(leg.stop) if leg.stop < count else work.output_bytes
        if len(layers) < count:
            layers = tuple(each.replace(tied_parameters=0) for each in layers)
        return work.replace(
            name=f"{work.name}, layers {leg.first} to {leg.stop - 1}",
            batch=batch,
            layers=layers,
            source=None,
            sink=None,
            input_bytes=entering if with_ends else 0.0,
            output_bytes=leaving if with_ends else 0.0,
            architecture=None,
        )

    def _ask(self, part: Workload, size: int, leg: Leg) -> Known:
        table: CostTable = self.tables[leg.site].of_layers(leg.first, leg.stop).up_to(part.batch)
        space = replace(self.problem.space, micro_batch_sizes=(size,))
        question = Question.of(part, self.sites[leg.site], QoE(), table, space, self.problem.overlap)
        if is_large(question.problem):
            if part.mode == "stream":  # of large fleets only the fastest stream is known
                return Known(0.0, ())
            with suppress(InfeasibleError):
                plan = LargeHunt.plan(question.problem, self.gap * OF_SITES, self.deadline, self.say)
                assert plan.certificate is not None, "answers are certified"
                return Known(plan.certificate.bound, plan.stages)
            return Known(0.0, ())
        found = best(question, gap=self.gap * OF_SITES, deadline=self.deadline)
        return Known(found.bound, () if found.plan is None else found.plan.stages)

    # ------------------------------------------------------------------ a chain of sites

    def _finish(self, size: int, legs: Sequence[Leg]) -> None:
        """The plans of a chain's sites one behind the other, each its batch's or its micro-batch's, if better."""
        if not self._tried(size, self._joined(size, legs, with_ends=False)):
            self._tried(size, self._joined(size, legs, with_ends=True))

    def _tried(self, size: int, pipelines: Iterable[tuple[Stage, ...]]) -> bool:
        """Whether any of some pipelines fits in memory; the best is kept."""
        fits = False
        for stages in pipelines:
            held = self.problem.space.in_flight(1, len(stages), self._workload.batch // size)
            plan = Plan(
                micro_batch=size,
                micro_batches=self._workload.batch // size,
                stages=tuple(each.replace(in_flight=count) for each, count in zip(stages, held, strict=True)),
                overlap=self.problem.overlap,
            )
            fits = self.keep(plan) or fits
        return fits

    def _joined(self, size: int, legs: Sequence[Leg], *, with_ends: bool) -> Iterator[tuple[Stage, ...]]:
        ways = [
            dict.fromkeys(self._answer(size, leg, whole=whole, with_ends=with_ends).stages for whole in (True, False))
            for leg in legs
        ]
        for parts in itertools.product(*ways):
            if all(parts):
                yield tuple(
                    stage.replace(first_layer=leg.first + stage.first_layer, stop_layer=leg.first + stage.stop_layer)
                    for leg, stages in zip(legs, parts, strict=True)
                    for stage in stages
                )

    def answer(self) -> Plan:
        """The best plan with its certificate."""
        return self.certified(
            scope=f"stages within one site, each site entered once: {self.problem.space.describe()}",
            solver=METHOD,
            reason=f"{len(self.sites)} sites answered {self.asked} questions; not checked by the partition program",
        )
