"""What a plan with slots takes for requests that want tokens, and what no such plan can beat.

A plan has groups of as many slots. A group goes round: every stage runs the prompts of those who have just joined and
one further token of all others in its slots, one after the other, and hands both over at once; when the last stage is
done each request in the group has one token more, and the tokens go back to the first stage. There, at a *boundary*,
requests that have all their tokens have left, and others join. That a round takes the time of its prompts and of its
tokens together, and a token the mean over a request's tokens however old the others in the group are, is our own
assumption; so is that a request takes its slot without a message.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Flow, Network
from dora_nb.costs.table import CostTable
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.serving import Batching, Joining
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

Floats = NDArray[np.float64]

#: A tick is the power of two that is as many bits below the seconds of one request alone.
_BITS = 42


class Leg(NamedTuple):
    """One computation or transfer.

    Attributes
    ----------
    duration
        Ticks from start to end.
    held
        Ticks from its start, by what it holds: a stage, or media and ports.
    """

    duration: int
    held: Mapping[str, int]


@dataclass(frozen=True)
class Hop:
    """A hand-over between two devices, which carries prompts' activations and tokens'.

    Attributes
    ----------
    prompt_bytes, token_bytes
        Of each request that has just joined, and of each other one.
    seconds_per_byte
        Of everything on the way; all of it is held from the start.
    latency_s
        Of the message.
    energy_j_per_byte
        Of the way.
    """

    prompt_bytes: float
    token_bytes: float
    seconds_per_byte: Mapping[str, float]
    latency_s: float
    energy_j_per_byte: float

    @property
    def slowest_s_per_byte(self) -> float:
        """Of what is held longest."""
        return max(self.seconds_per_byte.values(), default=0.0)

    def size_bytes(self, joining: float, going: float) -> float:
        """Bytes of so many that have just joined, and so many others."""
        return joining * self.prompt_bytes + going * self.token_bytes

    def alone_s(self, joining: int, going: int) -> float:
        """Seconds of carrying them, from start to end."""
        return self.size_bytes(joining, going) * self.slowest_s_per_byte + self.latency_s

    def least_token_s(self, slots: int) -> float:
        """The fewest seconds for each of some tokens that are carried together, no more than there are slots."""
        return self.token_bytes * self.slowest_s_per_byte + self.latency_s / slots


_NOWHERE = Hop(0.0, 0.0, {}, 0.0, 0.0)


def hop_between(
    network: Network, sender: str | None, receiver: str | None, prompt_bytes: float, token_bytes: float
) -> Hop:
    """What carrying so many bytes takes; nothing within a device, or where there is no such end."""
    if sender is None or receiver is None or sender == receiver or not prompt_bytes + token_bytes:
        return _NOWHERE
    one = network.exchange([Flow(sender, receiver, 1.0)])
    latency_s = one.duration_s - max(one.seconds.values())
    return Hop(prompt_bytes, token_bytes, one.seconds, latency_s, one.energy_j)


def least_s(seconds: Floats) -> Floats:
    """The fewest seconds of a pass, whoever goes along; the last axis is how many do, from 0."""
    return np.asarray(seconds[..., 1:].min(axis=-1))


def least_share_s(seconds: Floats) -> Floats:
    """The fewest seconds of a pass for each who goes along: n take at least n times as many."""
    return np.asarray((seconds[..., 1:] / np.arange(1, seconds.shape[-1])).min(axis=-1))


class Service:
    """What a plan takes for its requests.

    Parameters
    ----------
    plan
        Stages of one device each; the micro-batch is the slots of a group, and there is one micro-batch for each of its
        ``token_groups``.
    workload
        In mode ``generate``, one request: its batch is 1.
    cluster
        What it runs on.
    table
        Compute times of up to as many samples as a group has slots.

    Raises
    ------
    InputError
        If they do not fit together.
    """

    def __init__(self, plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> None:
        check_request(workload)
        check_fits(plan, workload.replace(batch=plan.micro_batch * plan.micro_batches), cluster)
        if plan.token_groups != plan.micro_batches:
            raise InputError("plan.token_groups", plan.token_groups, f"{plan.micro_batches}, one a micro-batch")
        if any(len(stage.replicas) > 1 for stage in plan.stages):
            raise InputError("plan.stages", [stage.devices for stage in plan.stages], "one device a stage, to serve")
        check_times(table, plan.micro_batch)
        self.plan, self.workload, self.cluster = plan, workload, cluster
        self.slots, self.groups, self.tokens = plan.micro_batch, plan.token_groups, workload.new_tokens
        self.devices = plan.devices
        columns = [_columns(stage, cluster, table, self.slots) for stage in plan.stages]
        self.prompt_s: Floats = np.array([prompt for prompt, _ in columns])
        self.token_s: Floats = np.array([token for _, token in columns])
        network = Network.of(cluster)
        cuts = [stage.stop_layer for stage in plan.stages[:-1]]
        self.hops = tuple(
            hop_between(network, *pair, workload.cut_bytes(cut), workload.token_bytes(cut))
            for pair, cut in zip(itertools.pairwise(self.devices), cuts, strict=True)
        )
        first, last = self.devices[0], self.devices[-1]
        self.back = hop_between(network, last, first, 0.0, float(INTEGER_BYTES))
        self.input = hop_between(network, workload.source, first, workload.input_bytes, 0.0)
        self.output = hop_between(network, last, workload.sink, self.tokens * workload.output_bytes, 0.0)
        self._legs: dict[tuple[object, ...], Leg] = {}

    # ------------------------------------------------------------------ legs

    @cached_property
    def tick_s(self) -> float:
        """Seconds of a tick: in whole numbers of it, who comes first does not hang on rounding."""
        return 2.0 ** (math.frexp(self.alone_s)[1] - _BITS)

    def compute(self, stage: int, joining: int, going: int) -> Leg:
        """What a stage computes in a round: prompts of so many, and a token of so many others."""
        key = stage, joining, going
        if key not in self._legs:
            seconds = self.prompt_s[stage, joining] + self.token_s[stage, going]
            ticks = round(float(seconds) / self.tick_s)
            self._legs[key] = Leg(ticks, {f"stage {stage}": ticks})
        return self._legs[key]

    def carry(self, hop: Hop, joining: int, going: int) -> Leg:
        """A hand-over of so many prompts and so many tokens."""
        key = id(hop), joining, going
        if key not in self._legs:
            size = hop.size_bytes(joining, going)
            held = {name: round(size * each / self.tick_s) for name, each in hop.seconds_per_byte.items()}
            self._legs[key] = Leg(round(hop.alone_s(joining, going) / self.tick_s), held)
        return self._legs[key]

    # ------------------------------------------------------------------ bounds

    @cached_property
    def first_token_alone_s(self) -> float:
        """No request has its first token sooner: its input, and its prompt through all stages, without waiting.

        Others in its round only add to what a stage computes and to what is handed over; the fewest seconds over all
        numbers that join together are taken, should a table have more for fewer.
        """
        return float(least_s(self.prompt_s).sum()) + sum(hop.alone_s(1, 0) for hop in (self.input, *self.hops))

    @cached_property
    def token_alone_s(self) -> float:
        """No token follows another sooner; by the same reasoning, and 0 where there is but one token."""
        if self.tokens == 1:
            return 0.0
        return float(least_s(self.token_s).sum()) + sum(hop.alone_s(0, 1) for hop in (*self.hops, self.back))

    @cached_property
    def alone_s(self) -> float:
        """No request has all its tokens sooner."""
        return self.first_token_alone_s + (self.tokens - 1) * self.token_alone_s + self.output.alone_s(1, 0)

    @cached_property
    def stage_s(self) -> Floats:
        """Seconds that each stage computes for a request at least, whatever is batched with what.

        A prompt pass of j requests takes F(j), which is F(j) / j for each of them and so at least the least of these
        over j up to the slots; likewise each of the ``tokens - 1`` further ones. A round's seconds are those of its
        prompts and its tokens, so they add up.
        """
        return np.asarray(least_share_s(self.prompt_s) + (self.tokens - 1) * least_share_s(self.token_s))

    @cached_property
    def held_s(self) -> dict[str, float]:
        """Seconds that a request holds each medium or port, which are proportional to its bytes."""
        held: dict[str, float] = {}
        for hop in (*self.hops, self.back, self.input, self.output):
            for name, each in hop.seconds_per_byte.items():
                held[name] = held.get(name, 0.0) + each * hop.size_bytes(1, self.tokens - 1)
        return held

    @cached_property
    def group_s(self) -> float:
        """Seconds that a request keeps a group going at least.

        A group does one thing after another: its stages' seconds and those of its hand-overs, which are proportional
        to bytes but for the latency. Every round brings at most one token for every slot, so that n requests need at
        least ``n tokens / slots`` rounds, and ``n (tokens - 1) / slots`` ways back; each pays its latency.
        """
        sent_s = sum(hop.size_bytes(1, self.tokens - 1) * hop.slowest_s_per_byte for hop in (*self.hops, self.back))
        late_s = self.tokens * sum(hop.latency_s for hop in self.hops) + (self.tokens - 1) * self.back.latency_s
        return float(self.stage_s.sum()) + sent_s + late_s / self.slots

    @cached_property
    def capacity_per_s(self) -> float:
        """No n requests are served in less than n / capacity seconds, whenever they arrive and whoever joins when.

        A stage does one thing at a time, a medium carries one transfer at a time, and there are so many groups: in T
        seconds each stage and medium is busy for at most T, and all groups together for at most T times their number.
        What n requests need of each at least is n times the figures above.
        """
        busiest_s = max(float(self.stage_s.max()), max(self.held_s.values(), default=0.0), self.group_s / self.groups)
        return 1.0 / busiest_s if busiest_s else math.inf

    @cached_property
    def carried_j(self) -> float:
        """Joules of carrying what belongs to a request."""
        hops = (*self.hops, self.back, self.input, self.output)
        return sum(hop.size_bytes(1, self.tokens - 1) * hop.energy_j_per_byte for hop in hops)

    @cached_property
    def carried_bytes(self) -> float:
        """Bytes carried for a request."""
        return sum(hop.size_bytes(1, self.tokens - 1) for hop in (*self.hops, self.back, self.input, self.output))


def check_request(workload: Workload) -> None:
    """Refuse what is no request for tokens.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    if not workload.generates:
        raise InputError("workload.mode", workload.mode, "generate, to serve requests for tokens")
    if workload.batch != 1:
        raise InputError(
            "workload.batch", workload.batch, "1: a request is one sample; how many go together is planned"
        )


def check_times(table: CostTable, slots: int) -> None:
    """Refuse compute times that do not say what so many slots take.

    Raises
    ------
    InputError
        Naming what is missing.
    """
    if table.token_s is None:
        raise InputError("table.token_s", None, "seconds of one further token, for a workload that generates")
    most = table.forward_s.shape[2] - 1
    if most < slots:
        raise InputError("table", f"times of up to {most} samples", f"those of {slots}, for as many slots")


def check_joining(joining: Joining, plan: Plan) -> None:
    """Refuse a batching that does not exist, and a wave that a plan's slots cannot hold or that fills groups anyway.

    Raises
    ------
    InputError
        Naming the value and what is allowed.
    """
    batching, wave = joining
    if batching not in get_args(Batching):
        raise InputError("batching", batching, ", ".join(get_args(Batching)))
    most = plan.micro_batch * plan.micro_batches if batching == "continuous" else 1
    if not 1 <= wave <= most:
        allowed = f"from 1 to {most}, the slots of all groups" if batching == "continuous" else "1, to batch statically"
        raise InputError("wave", wave, allowed)


def serving_plan(stages: list[tuple[int, int, str]], slots: int, groups: int) -> Plan:
    """A plan to serve with, from (first layer, stop layer, device) of each stage."""
    return Plan(
        micro_batch=slots,
        micro_batches=groups,
        token_groups=groups,
        stages=tuple(
            Stage(
                first_layer=first,
                stop_layer=stop,
                replicas=(Replica(device=name, samples=slots),),
                in_flight=groups,
            )
            for first, stop, name in stages
        ),
    )


def _columns(stage: Stage, cluster: Cluster, table: CostTable, slots: int) -> tuple[Floats, Floats]:
    """Seconds of a stage's prompts and tokens, by how many there are."""
    table, device = table.with_weights(stage.weights), cluster.device_ids.index(stage.leader)
    assert table.token_s is not None, "checked before"
    layers, samples = slice(stage.first_layer, stage.stop_layer), slice(0, slots + 1)
    return table.forward_s[layers, device, samples].sum(axis=0), table.token_s[layers, device, samples].sum(axis=0)
