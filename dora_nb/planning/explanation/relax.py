"""The smallest changes that make an infeasible question feasible, each proven by a plan.

Every hard limit is loosened alone: latency, throughput and energy to their proven optimum under the other limits,
batteries, headroom, memory and rates by bisection between what is proven too little and what a plan is at hand for.
Limits with a price never stand in the way, and stay as they are. Where no single one is enough, pairs are
loosened by the same fraction of their limits, and then each as little as the other allows (our own choice among the
many smallest pairs); where no pair is enough, everything is. What is proven not to help together is not tried alone.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from dora_nb.costs.memory import MemoryModel
from dora_nb.domain.explanation import Change, LimitKind, Relaxation, RuledOut, Unit
from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import DevicePrediction, Prediction
from dora_nb.domain.qoe import QoE, Term
from dora_nb.planning.ask import Answer, best, feasible
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.question import Question

#: Bisection ends when the change is known to this fraction of itself, or to a tenth of it of the limit.
PRECISION = 0.01

#: Faster media than this many times are not looked at; nor is any limit that many times looser in a pair.
MOST_TIMES = 1_000.0

_ORDER: tuple[LimitKind, ...] = ("latency", "throughput", "energy", "battery", "headroom", "memory", "bandwidth")

#: Limits on the whole plan: how loose they must be is the optimum of a search.
_OF_PLANS = ("latency", "throughput", "energy")


@dataclass(frozen=True)
class Limit:
    """One limit that can be looser, as a number that grows with how loose it is.

    Attributes
    ----------
    kind, device
        What is limited.
    asked
        In s, of a throughput too (the batch over it); J; bytes; times. Of a headroom what may be filled: as a share
        or, of so many bytes to keep free, in bytes of the largest device.
    wide
        A value that no plan of interest needs more of.
    """

    kind: LimitKind
    device: str | None
    asked: float
    wide: float = math.inf

    @property
    def name(self) -> tuple[LimitKind, str | None]:
        """Kind and device."""
        return self.kind, self.device


def limits_of(question: Question) -> list[Limit]:
    """Every hard limit of a question, memory and rates included."""
    qoe, cluster, hard = question.qoe, question.cluster, question.qoe.hard
    found = []
    if "latency" in hard and qoe.latency_s is not None:
        found.append(Limit("latency", None, qoe.latency_s))
    if "throughput" in hard and qoe.samples_per_s is not None:
        found.append(Limit("throughput", None, question.workload.batch / qoe.samples_per_s))
    if "energy" in hard and qoe.energy_j is not None:
        found.append(Limit("energy", None, qoe.energy_j))
    if "battery" in hard:
        found += [Limit("battery", name, joules) for name, joules in qoe.battery_j.items()]
    if "headroom" in hard:
        all_of_it = 1.0 if qoe.headroom_bytes is None else _largest_bytes(question)
        found.append(Limit("headroom", None, qoe.room_bytes(all_of_it), all_of_it))
    found += [Limit("memory", device.id, device.usable_memory_bytes) for device in cluster.devices]
    if len(cluster.devices) > 1:
        found.append(Limit("bandwidth", None, 1.0, MOST_TIMES))
    return found


def _largest_bytes(question: Question) -> float:
    """Usable memory of the device that has most."""
    return max(device.usable_memory_bytes for device in question.cluster.devices)


@dataclass(frozen=True)
class _Between:
    """How much more is proven too little, how much is enough for a plan, and what counting alone says is too little."""

    proven: float
    enough: float
    counted: float
    plan: Plan


@dataclass
class Relaxer:
    """Finds relaxations of one infeasible question.

    Attributes
    ----------
    question
        What no plan was found for.
    gap
        Relative gap to which latency, throughput and energy are proven.
    deadline, say
        When to stop, and whom to tell what is being done.
    found, ruled_out
        What was found by now.
    solves
        How many questions were solved.
    """

    question: Question
    gap: float
    deadline: Deadline
    say: Callable[[str], None]
    found: list[Relaxation] = field(default_factory=list)
    ruled_out: list[RuledOut] = field(default_factory=list)
    solves: int = 0
    _dead: list[frozenset[Limit]] = field(default_factory=list)

    def run(self) -> None:
        """Single limits; pairs where no single one is enough; everything where no pair is."""
        limits = limits_of(self.question)
        of_devices = [each for each in limits if each.kind not in _OF_PLANS]
        memory = [each for each in of_devices if each.kind in ("memory", "headroom")]
        batteries = [each for each in of_devices if each.kind == "battery"]
        for group in (of_devices, memory, batteries):  # one solve may rule out many
            self._at_hand(group)
        for limit in sorted(limits, key=lambda each: _ORDER.index(each.kind)):
            self._try([limit])
        if not self.found and not self.deadline.passed:
            for limit in limits:  # which others could help together with it
                self._at_hand([each for each in limits if each is not limit])
            for pair in itertools.combinations(limits, 2):
                self._try(list(pair))
        if not self.found and not self.deadline.passed and len(limits) > 2:
            self._try(limits)
        self.found.sort(key=lambda relaxation: max(map(_fraction, relaxation.changes)))

    # ------------------------------------------------------------------ one set of limits

    def _try(self, limits: Sequence[Limit]) -> None:
        """Loosen some limits just enough, if that helps at all."""
        if self.deadline.passed or (len(limits) > 1 and not all(each.asked > 0 for each in limits)):
            return
        alone = limits[0] if len(limits) == 1 else None
        if alone is not None and alone.kind in _OF_PLANS:
            self._best_reachable(alone)
            return
        answer = self._at_hand(limits)
        if answer is not None and answer.plan is not None:
            self._least(limits, answer.plan)
        elif answer is None or answer.impossible or not self.deadline.passed:
            proven = answer is None or answer.impossible
            self.ruled_out.append(RuledOut(limits=tuple(each.name for each in limits), proven=proven))

    def _at_hand(self, limits: Sequence[Limit]) -> Answer | None:
        """What is known when some limits are as loose as can be; None where that is proven too little already."""
        wanted = frozenset(limits)
        if not wanted or any(wanted <= dead for dead in self._dead):
            return None
        self.say(f"without limits of {_names(limits)}")
        answer = self._feasible({each: each.wide for each in limits})
        if answer.impossible:
            self._dead.append(wanted)
        return answer

    def _best_reachable(self, limit: Limit) -> None:
        """Limits on the whole plan: the proven optimum of the figure itself under all other limits."""
        answer = self._optimum(limit, {})
        if answer.plan is not None:
            change = self._change(limit, answer.value, answer.bound)
            self.found.append(Relaxation(changes=(change,), plan=answer.plan))
        elif answer.impossible or not self.deadline.passed:
            if answer.impossible:
                self._dead.append(frozenset([limit]))
            self.ruled_out.append(RuledOut(limits=(limit.name,), proven=answer.impossible))

    def _optimum(self, limit: Limit, others: Mapping[Limit, float]) -> Answer:
        assert limit.kind in _OF_PLANS, "the others are bisected"
        self.say(f"looking for the {'highest' if limit.kind == 'throughput' else 'least'} {limit.kind}")
        self.solves += 1
        question = self._changed({**others, limit: limit.wide})
        figure: Literal["makespan_s", "energy_j"] = "energy_j" if limit.kind == "energy" else "makespan_s"
        return best(question, gap=self.gap, deadline=self.deadline, figure=figure)

    def _least(self, limits: Sequence[Limit], plan: Plan) -> None:
        """Just enough of some limits; ``plan`` keeps all others.

        Several are first loosened by the same fraction, as little as possible, and then each as little as the others
        allow, those of devices before those of the whole plan.
        """
        self.say(f"how much more of {_names(limits)}")
        units = {each: 1.0 if len(limits) == 1 else each.asked for each in limits}
        more = self._bisect(units, {}, _Between(0.0, math.inf, self._missing(units), plan))
        values = {each: min(each.asked + more.enough * unit, each.wide) for each, unit in units.items()}
        proven = {each: min(each.asked + more.proven * unit, each.wide) for each, unit in units.items()}
        plan = more.plan
        for each in sorted(limits, key=_of_plans) if len(limits) > 1 else ():
            others = {other: value for other, value in values.items() if other is not each}
            plan, values[each], proven[each] = self._least_next_to(each, others, values[each], plan)
        self._verify(values, proven, plan)

    def _least_next_to(
        self, limit: Limit, others: Mapping[Limit, float], value: float, plan: Plan
    ) -> tuple[Plan, float, float]:
        """A plan, the least value of one limit next to others, and a value that is proven too little."""
        answer = self._feasible({**others, limit: limit.asked})
        if answer.plan is not None:
            return answer.plan, limit.asked, limit.asked
        if limit.kind in _OF_PLANS:
            answer = self._optimum(limit, others)
            if answer.plan is None or answer.value > value:
                return plan, value, max(limit.asked, min(answer.bound, value))
            return answer.plan, answer.value, max(limit.asked, answer.bound)
        found = self._bisect({limit: 1.0}, others, _Between(0.0, value - limit.asked, 0.0, plan))
        return found.plan, limit.asked + found.enough, limit.asked + found.proven

    def _bisect(self, units: Mapping[Limit, float], others: Mapping[Limit, float], known: _Between) -> _Between:
        """How many units more are enough and how many are proven too little, next to other changes."""
        enough = self._needs(units, others, known.plan, known.enough)
        plan, proven, too_little = known.plan, known.counted, known.counted
        least = max(each.asked / unit for each, unit in units.items())
        smallest = max(PRECISION / 10 * least, 1e-12)
        while enough - too_little > max(PRECISION * enough, smallest) and not self.deadline.passed:
            floor = max(too_little, smallest)
            between = math.sqrt(floor * enough) if enough > 4 * floor else (too_little + enough) / 2
            looser = {each: min(each.asked + between * unit, each.wide) for each, unit in units.items()}
            answer = self._feasible({**others, **looser})
            if answer.plan is not None:
                enough, plan = self._needs(units, others, answer.plan, between), answer.plan
            else:
                too_little = between
                proven = between if answer.impossible else proven
        return _Between(proven, enough, known.counted, plan)

    def _verify(self, values: Mapping[Limit, float], proven: Mapping[Limit, float], plan: Plan) -> None:
        """Solve the changed question itself: its plan, with a certificate, is the proof that the change is enough."""
        answer = best(self._changed(values), gap=self.gap, deadline=self.deadline, known=[plan])
        self.solves += 1
        if answer.plan is not None:
            changes = [self._change(each, value, proven[each]) for each, value in values.items() if value > each.asked]
            self.found.append(Relaxation(changes=tuple(changes), plan=answer.plan))

    # ------------------------------------------------------------------ how much looser

    def _needs(self, units: Mapping[Limit, float], others: Mapping[Limit, float], plan: Plan, at: float) -> float:
        """How many units more a plan takes that keeps the limits at ``at``; a need of rates cannot be read off it."""
        if any(each.kind == "bandwidth" for each in units):
            return min(at, MOST_TIMES - 1)
        assert plan.prediction is not None, "plans of answers are predicted"
        question = self._changed(others)
        needs = ((_needed(each, plan.prediction, question, units), each.asked, unit) for each, unit in units.items())
        return min(at, max(0.0, *((needed - asked) / unit for needed, asked, unit in needs)) * (1 + 1e-12))

    def _missing(self, units: Mapping[Limit, float]) -> float:
        """Proven too little by counting: the network's parameters have to be held somewhere."""
        question = self.question
        held = MemoryModel(question.workload).least_bytes(question.space.weights)
        missing = held - sum(device.usable_memory_bytes for device in question.cluster.devices)
        memory = [unit for each, unit in units.items() if each.kind == "memory"]
        # A hair less than counted: a sum of the same numbers in another order may round differently.
        return missing * (1 - 1e-9) / sum(memory) if missing > 0 and memory else 0.0

    # ------------------------------------------------------------------ changed questions

    def _feasible(self, values: Mapping[Limit, float]) -> Answer:
        self.solves += 1
        return feasible(self._changed(values), self.deadline)

    def _changed(self, values: Mapping[Limit, float]) -> Question:
        """The question with some limits at other values; those at their widest are no limits any more."""
        changed, qoe = self.question, self.question.qoe
        for limit, value in values.items():
            if limit.kind == "bandwidth":
                changed = changed.with_rates(partial(operator.mul, value))
            elif limit.kind != "memory":
                qoe = self._loosened(qoe, limit, value)
        memory = {str(limit.device): value for limit, value in values.items() if limit.kind == "memory"}
        finite = {device: min(value, _PLENTY_BYTES) for device, value in memory.items()}
        return changed.with_memory(finite).with_qoe(qoe)

    def _loosened(self, qoe: QoE, limit: Limit, value: float) -> QoE:
        assert limit.kind != "memory", "a limit of the QoE"
        assert limit.kind != "bandwidth", "a limit of the QoE"
        if limit.kind == "battery":
            joules = {name: value if name == limit.device else each for name, each in qoe.battery_j.items()}
            return qoe.replace(battery_j={name: each for name, each in joules.items() if math.isfinite(each)})
        if value >= limit.wide:
            return qoe.without(limit.kind)
        return qoe.replace(**{field_of(limit.kind, qoe): self._asked(limit, value)})

    def _asked(self, limit: Limit, value: float) -> float:
        """The number that a person asks for, which is smaller for a looser throughput or headroom."""
        if limit.kind == "throughput":
            return self.question.workload.batch / value
        return max(limit.wide - value, 0.0) if limit.kind == "headroom" else value

    def _change(self, limit: Limit, needed: float, impossible: float) -> Change:
        return Change(
            limit=limit.kind,
            device=limit.device,
            unit=unit_of(limit.kind, self.question.qoe),
            asked=self._asked(limit, limit.asked),
            needed=self._asked(limit, needed),
            impossible=self._asked(limit, impossible) if impossible > limit.asked else None,
        )


_UNITS: dict[LimitKind, Unit] = {
    "latency": "s",
    "throughput": "samples/s",
    "energy": "J",
    "battery": "J",
    "headroom": "share",
    "memory": "bytes",
    "bandwidth": "times",
}

#: More than any plan needs on one device.
_PLENTY_BYTES = 1e18


def unit_of(kind: LimitKind, qoe: QoE) -> Unit:
    """What a limit is counted in."""
    return "bytes" if kind == "headroom" and qoe.headroom_bytes is not None else _UNITS[kind]


def field_of(kind: Term, qoe: QoE) -> str:
    """Where a limit stands in a QoE."""
    if kind == "headroom":
        return "headroom_fraction" if qoe.headroom_bytes is None else "headroom_bytes"
    return {"latency": "latency_s", "throughput": "samples_per_s", "energy": "energy_j", "battery": "battery_j"}[kind]


def _needed(limit: Limit, prediction: Prediction, question: Question, looser: Iterable[Limit]) -> float:
    """The value of a limit at which a plan keeps it; where memory is looser too, as if headroom were not."""
    qoe, held = question.qoe, {each.device: each for each in prediction.devices}
    if limit.kind == "energy":
        return prediction.energy_j(qoe.energy_accounting)
    if limit.kind == "battery":
        drawn_j = {each.device: each.energy_j for each in prediction.idle if qoe.energy_accounting == "all-on"}
        drawn_j |= {name: each.energy_j for name, each in held.items()}
        return drawn_j.get(str(limit.device), 0.0)
    if limit.kind == "memory":
        return _with_headroom(held[limit.device].memory_bytes, qoe) if limit.device in held else 0.0
    if limit.kind == "headroom":
        roomier = {each.device for each in looser if each.kind == "memory"}
        here = [held[name] for name in held if name not in roomier]
        return max((_filled(each, question, limit.wide) for each in here), default=0.0)
    return prediction.makespan_s


def _with_headroom(size_bytes: float, qoe: QoE) -> float:
    """Usable bytes of which so many may be filled."""
    if "headroom" not in qoe.hard:
        return size_bytes
    if qoe.headroom_bytes is not None:
        return size_bytes + qoe.headroom_bytes
    share = qoe.room_bytes(1.0)
    return size_bytes / share if share > 0 else math.inf


def _filled(device: DevicePrediction, question: Question, largest_bytes: float) -> float:
    """How much of a device is filled, in what a headroom is counted in: see :class:`Limit`."""
    usable_bytes = question.cluster.device(device.device).usable_memory_bytes
    if question.qoe.headroom_bytes is not None:
        return largest_bytes - usable_bytes + device.memory_bytes
    return device.memory_bytes / usable_bytes


def _of_plans(limit: Limit) -> bool:
    return limit.kind in _OF_PLANS


def _names(limits: Iterable[Limit]) -> str:
    return ", ".join(each.kind if each.device is None else f"{each.kind} of {each.device}" for each in limits)


def _fraction(change: Change) -> float:
    """Relative change; of nothing, infinite."""
    return (change.needed - change.asked) / change.asked if change.asked else math.inf
