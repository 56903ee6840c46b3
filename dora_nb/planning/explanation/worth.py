"""What a little more, or less, of everything is worth: differences between the best plan and one solve more each.

Differences, not dual values: a plan changes in jumps, and the dual of a relaxation says nothing about the next one.
Every figure has a gap, so a difference smaller than the two gaps together is no change that could be proven.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dora_nb.domain.explanation import LimitKind, MarginalValue
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE, Term
from dora_nb.planning.ask import Answer, best, rating
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.explanation.alternatives import avoiding
from dora_nb.planning.explanation.relax import field_of, unit_of
from dora_nb.planning.question import Question

#: One unit of each: a second, a sample a second, a joule, a hundredth of a memory, a gigabyte, a megabit a second.
UNIT = {"s": 1.0, "samples/s": 1.0, "J": 1.0, "share": 0.01, "bytes": 1e9, "bytes/s": 1e6 / 8}

#: The step is the largest power of ten of units up to this fraction of what there is.
LARGEST_STEP = 0.25

#: More than any plan needs on one device.
_PLENTY_BYTES = 1e18


def step_of(unit: str, present: float) -> float:
    """A step that is small next to what there is and large enough to tell: 1 s of 30 s, 10 Mbit/s of 186 Mbit/s."""
    if present <= 0:
        return UNIT[unit]
    return float(UNIT[unit] * 10 ** math.floor(math.log10(LARGEST_STEP * present / UNIT[unit]) + 1e-9))


@dataclass
class Appraiser:
    """Solves a question again and again, a step aside each time.

    Attributes
    ----------
    question
        What was asked.
    before
        The best plan for it, with the certificate of its objective.
    known
        Other plans, which may be good after a step.
    gap
        Relative gap that is good enough.
    steps
        How much more of a limit, of ``memory`` (bytes) or of ``bandwidth`` (bytes/s), how much less of ``throughput``
        and ``headroom``; what is missing gets a step by :func:`step_of`.
    deadline, say
        When to stop, and whom to tell what is being done.
    found
        What was found by now.
    solves
        How many questions were solved.
    """

    question: Question
    before: Plan
    known: tuple[Plan, ...]
    gap: float
    steps: Mapping[str, float]
    deadline: Deadline
    say: Callable[[str], None]
    found: list[MarginalValue] = field(default_factory=list)
    solves: int = 0

    def run(self) -> None:
        """Limits, memory, rates, devices fewer and more; sorted by what they are worth."""
        certificate = self.before.certificate
        assert certificate is not None, "the best plan is certified"
        assert certificate.objective == self.question.qoe.objective, "for the objective"
        self._value, self._bound, self._unit = certificate.value, certificate.bound, certificate.unit
        qoe = self.question.qoe
        for kind in qoe.hard:
            for device in qoe.battery_j if kind == "battery" else (None,):
                self._limit(kind, device)
        self._memory()
        self._rates()
        self._devices()
        self.found.sort(key=_usefulness)

    # ------------------------------------------------------------------ what there can be more of

    def _limit(self, kind: Term, device: str | None) -> None:
        """A hard limit of the QoE, a step looser: more latency, energy or battery, less throughput or headroom."""
        if self.deadline.passed:
            return
        qoe, unit = self.question.qoe, unit_of(kind, self.question.qoe)
        limit = qoe.battery_j[device] if device is not None else float(getattr(qoe, field_of(kind, qoe)))
        step = self.steps.get(kind, step_of(unit, limit))
        if kind in ("throughput", "headroom"):
            step = -min(step, limit)
        if self.question.problem.terms.is_plain and _aim(kind) == qoe.objective:
            # The best plan is within the limit on the objective itself; a looser one makes none better.
            answer = Answer(self._value, self._bound, self.before)
        else:
            self.say(f"{'more' if step > 0 else 'less'} {kind}{f' of {device}' if device else ''}")
            answer = self._best(self.question.with_qoe(_looser(qoe, kind, device, limit + step)))
        used = self._used(kind, device)
        self._add(answer, of=kind, device=device, step=step, unit=unit, limit=limit, used=used)

    def _used(self, kind: Term, device: str | None) -> float:
        """What the best plan takes of a limit; of a headroom, what it leaves free on the device that has least left."""
        qoe = self.question.qoe
        if kind != "headroom":
            reached = rating(self.before, qoe).limits
            return next(each.value for each in reached if (each.term, each.device) == (kind, device))
        assert self.before.prediction is not None, "plans of answers are predicted"
        in_bytes = qoe.headroom_bytes is not None
        return min(
            (each.usable_memory_bytes - each.memory_bytes) / (1.0 if in_bytes else each.usable_memory_bytes)
            for each in self.before.prediction.devices
        )

    def _memory(self) -> None:
        """Memory of every device; one solve without any limit of memory may say that none matters."""
        devices = self.question.cluster.devices
        if self.deadline.passed:
            return
        self.say("memory without limit")
        unlimited = self._best(self.question.with_memory({device.id: _PLENTY_BYTES for device in devices}))
        matters = unlimited.value < self._bound
        assert self.before.prediction is not None, "plans of answers are predicted"
        held = {each.device: each.memory_bytes for each in self.before.prediction.devices}
        for device in devices:
            usable = device.usable_memory_bytes
            step = self.steps.get("memory", step_of("bytes", usable))
            if not matters:
                answer = Answer(self._value, min(unlimited.bound, self._value), self.before)
            elif self.deadline.passed:
                return
            else:
                self.say(f"more memory on {device.id}")
                answer = self._best(self.question.with_memory({device.id: usable + step}))
            used = held.get(device.id, 0.0)
            self._add(answer, of="memory", device=device.id, step=step, unit="bytes", limit=usable, used=used)

    def _rates(self) -> None:
        """All rates of the network, and those of each device that has a rate of its own: not one with links."""
        network = self.question.problem.network
        if len(network.devices) == 1:
            return
        domains = {name: network.home(name) for name in network.devices if network.home(name).kind != "links"}
        own = {name: domain.rates_bytes_per_s[name] for name, domain in domains.items()}
        slowest = min(hop.bytes_per_s for route in network.routes() for hop in route.hops)
        for name, present in [(None, slowest), *own.items()]:
            if self.deadline.passed:
                return
            step = self.steps.get("bandwidth", step_of("bytes/s", present))
            self.say("faster for all" if name is None else f"faster for {name}")
            answer = self._best(self.question.with_rates(partial(operator.add, step), name))
            self._add(answer, of="bandwidth", device=name, step=step, unit="bytes/s", limit=None, used=None)

    def _devices(self) -> None:
        """Every device fewer, and one more like each that is different."""
        cluster = self.question.cluster
        for name in cluster.device_ids:
            if self.deadline.passed:
                return
            self.say(f"without {name}")
            self._fewer(name)
        for members in self.question.problem.fleet.types:
            if self.deadline.passed:
                return
            name = cluster.device_ids[members[0]]
            if not cluster.domains:  # a device alone has no medium on which a second one could be reached
                return
            self.say(f"another {name}")
            answer = self._best(self.question.with_another(name))
            self._add(answer, of="device", device=name, step=1.0, unit="devices", limit=None, used=None)

    def _fewer(self, name: str) -> None:
        known = (self.before, *self.known)
        other = avoiding(self.question, [name], self.before, known, self.gap, self.deadline)
        self.solves += 1
        if other.plan is None:
            stopped = self.deadline.passed
            answer = Answer(math.inf, self._bound if stopped else math.inf, None)
        else:
            assert other.plan.certificate is not None, "alternatives are certified"
            answer = Answer(other.plan.certificate.value, other.plan.certificate.bound, other.plan)
        self._add(answer, of="device", device=name, step=-1.0, unit="devices", limit=None, used=None)

    # ------------------------------------------------------------------ one step

    def _best(self, question: Question) -> Answer:
        self.solves += 1
        return best(question, gap=self.gap, deadline=self.deadline, known=(self.before, *self.known))

    def _add(self, answer: Answer, **what: Any) -> None:
        plan = answer.plan
        self.found.append(
            MarginalValue(
                **what,
                objective=self.question.qoe.objective,
                objective_unit=self._unit,
                before=self._value,
                before_bound=self._bound,
                after=None if plan is None else answer.value,
                after_bound=None if math.isinf(answer.bound) else answer.bound,
                plan=plan,
            )
        )


def _aim(kind: LimitKind) -> str:
    """The objective that a limit is on: a throughput is one on latency."""
    return "latency" if kind == "throughput" else kind


def _looser(qoe: QoE, kind: Term, device: str | None, limit: float) -> QoE:
    """A QoE with one limit at another value; at 0 there is none."""
    if device is not None:
        return qoe.replace(battery_j=qoe.battery_j | {device: limit})
    return qoe.replace(**{field_of(kind, qoe): limit}) if limit else qoe.without(kind)


def _usefulness(value: MarginalValue) -> tuple[int, float]:
    """Proven gains first, the largest in front; then what cannot be spared; last what changes nothing."""
    change = math.inf if value.change is None else value.change
    if value.proven == "better":
        return 0, change
    if value.proven == "nothing":
        return 2, change
    return 1, -change
