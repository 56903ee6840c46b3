"""The partition model: which columns make up the pipeline, as a mixed-integer program.

A binary says that a column stands at a position, counted from the end of the pipeline, so in-flight counts and memory
are known for each and the number of stages is free. Columns of several micro-batch sizes compete in one model. The
makespan rows are valid lower bounds, the same ones the bounding search uses; the program therefore bounds every plan
made of its columns, and the search and the program check each other. Where a hand-over depends on both ends (links
between pairs, several domains) the rows keep what each column decides alone, which is less than what the search knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.rows import Form, LinearProgram, Rows, Sense, over, total

#: What a program minimises; ``value`` is the objective of the QoE with what soft limits add.
Objective = Literal["latency", "energy", "period", "value"]


@dataclass(frozen=True)
class PartitionModel:
    """A partition program and what its binaries stand for.

    Attributes
    ----------
    model
        The program. Variables: ``place`` (binary), ``makespan`` in seconds, ``energy`` in joules, ``period`` in
        seconds, and ``value`` in the unit of the QoE's objective.
    column, position
        Column and position from the end (1: last stage) of each binary.
    """

    model: LinearProgram
    column: Ints
    position: Ints

    def chosen(self, place: Floats) -> list[int]:
        """Columns of a solution, first stage to last."""
        used = np.flatnonzero(place > 0.5)
        return [int(self.column[i]) for i in used[np.argsort(-self.position[used])]]


@dataclass(frozen=True)
class _Places:
    """Every (column, position) pair; a stage at cut 1 twice, behind another stage or behind a hosted first layer."""

    column: Ints
    position: Ints
    behind_host: NDArray[np.bool_]


def partition_model(
    problem: Problem,
    columns: Columns,
    objective: Objective,
    *,
    latency_limit_s: float = np.inf,
    energy_limit_j: float = np.inf,
) -> PartitionModel:
    """Build the program over some columns.

    Parameters
    ----------
    problem, columns
        What is planned, and the columns to choose from.
    objective
        What is minimised.
    latency_limit_s, energy_limit_j
        Rows of the QoE; infinity leaves a row out.
    """
    places = _places(problem, columns)
    program = _Program(problem, columns, places)
    program.flow()
    program.devices()
    program.makespan(latency_limit_s)
    program.ports()
    program.energy(energy_limit_j)
    program.period()
    if problem.workload.arrival_s is not None:
        program.arrivals(problem.workload.arrival_s)
    program.batteries()
    program.soft_limits(valued=objective == "value")
    minimised = {
        "latency": program.makespan_s,
        "energy": program.energy_j,
        "period": program.period_s,
        "value": program.value,
    }
    return PartitionModel(program.rows.build(minimised[objective]), places.column, places.position)


def _places(problem: Problem, columns: Columns) -> _Places:
    layers, most = len(problem.workload.layers), len(problem.cluster.devices)
    least, most_depth = min(problem.space.in_flight_depths), max(problem.space.in_flight_depths)
    rows: list[tuple[int, int, bool]] = []
    hosting = bool(columns.hosts.any())
    for column in range(len(columns)):
        last = columns.stop[column] == layers
        for position in range(1, 2) if last else range(2, most + 1):
            batches = int(columns.micro_batches[column])
            held = [min(batches, 1 + depth * (position - 1)) for depth in (least, most_depth)]
            if problem.workload.trains and columns.most_in_flight[column] < held[0]:
                break
            if columns.least_in_flight[column] > held[1]:
                continue
            rows.append((column, position, False))
            if hosting and columns.first[column] == 1 and not last:
                rows.append((column, position, True))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return _Places(table[:, 0], table[:, 1], table[:, 2].astype(bool))


class _Program:
    """Builds the rows, one family of constraints per method."""

    def __init__(self, problem: Problem, columns: Columns, places: _Places) -> None:
        self.problem, self.places = problem, places
        self.c = columns.take(places.column)
        self.layers = len(problem.workload.layers)
        self.trains = problem.workload.trains
        self.batches = self.c.micro_batches
        self.first = (self.c.first == 0) | places.behind_host
        self.last = places.position == 1
        self.positions = range(1, int(places.position.max(initial=0)) + 1)
        self.rows = Rows()
        self.place = self.rows.variables("place", len(places.column), kind="binary")
        self.makespan_s = over(self.rows.variables("makespan"))
        self.energy_j = over(self.rows.variables("energy"))
        self.period_s = over(self.rows.variables("period"))
        self.moves = self._variables("move", 0 if problem.shared else len(self.positions))
        ported = problem.workload.generates and not problem.shared
        self.token_moves = self._variables("token_move", len(self.positions) if ported else 0)
        lasting = problem.idle_all_w is None and problem.workload.arrival_s is None
        count = len(problem.cluster.devices) if lasting else 0
        self.used = self._variables("used", count, kind="binary")
        self.awake_s = self._variables("awake", count)
        self.value = over(self.rows.variables("value"))
        terms = problem.terms
        self.late_s = self._variables("late", 1 if terms.qoe.latency_price else 0)
        self.short_cost = self._variables("short", 1 if terms.qoe.throughput_price else 0)
        self.over_j = self._variables("over", 1 if terms.qoe.energy_price else 0)
        self.beyond_j = self._variables("beyond", len(terms.priced))

    def _variables(self, name: str, count: int, kind: Literal["real", "binary"] = "real") -> list[Form]:
        return [over(variable) for variable in self.rows.variables(name, count, kind=kind)]

    def add(self, family: str, forms: Iterable[Form], sense: Sense, bound: float = 0.0) -> None:
        """Add rows ``form (<=, >=, =) bound``."""
        for form in forms:
            self.rows.add(family, form, sense, bound)

    def total(self, coefficients: Floats | Ints | NDArray[np.bool_], where: NDArray[np.bool_] | bool = True) -> Form:
        """Sum of coefficient times binary, over some of the places."""
        return over(self.place, np.asarray(coefficients, dtype=float) * where)

    def at(self, position: int) -> NDArray[np.bool_]:
        """Places at one position."""
        return np.asarray(self.places.position == position)

    # ------------------------------------------------------------------ which columns

    def flow(self) -> None:
        """One chain of columns of one micro-batch size, and one number of groups, covers every layer once.

        One last stage and one first stage; at every cut between them, the stage that starts there has one behind it
        that ends there. A hosted first layer takes the place of the stage before cut 1.
        """
        self.add("flow", [self.total(self.last), self.total(self.first)], "=", 1)
        hosts: list[Form] = []
        meetings: list[Form] = []
        for size in np.unique(np.stack([self.c.micro_batch, self.c.token_groups]), axis=1).T:
            family = (self.c.micro_batch == size[0]) & (self.c.token_groups == size[1])
            hosts.append(self.total(self.c.hosts, family) - self.total(self.places.behind_host, family))
            for position in self.positions:
                starts = family & self.at(position) & ~self.first
                ends = family & self.at(position + 1)
                cuts = np.unique(np.concatenate([self.c.first[starts], self.c.stop[ends]]))
                meetings.extend(
                    self.total(starts & (self.c.first == k)) - self.total(ends & (self.c.stop == k)) for k in cuts
                )
        self.add("flow", hosts + meetings, "=")

    def devices(self) -> None:
        """Every device is used at most once: a group takes some devices of each type."""
        counts = self.problem.fleet.used[self.c.code]
        for kind, available in enumerate(self.problem.fleet.available.tolist()):
            self.add("devices", [self.total(counts[:, kind])], "<=", available)

    # ------------------------------------------------------------------ makespan

    def makespan(self, limit_s: float) -> None:
        """Lower bounds on the makespan, see :mod:`dora_nb.planning.bounding.search`; and the latency limit."""
        c = self.c
        tail_s = self.c.tail_s(self.problem.shared)
        starts_here = (c.first == 0) | c.hosts  # the stage whose devices run the first layer
        begin = self.total(c.input_trip_s, starts_here)
        finish = self.total(tail_s, starts_here)
        if self.problem.shared:  # the exchange of tied gradients holds the medium for the other end's part as well
            finish = finish + self.total(c.tied_part_s, self.last & ~starts_here)
        out = self.total(c.output_trip_s, self.last)
        host_forward, host_backward = self.total(c.host_forward_s), self.total(c.host_backward_s)
        host_move = self._move(0)
        both_s = c.forward_s + c.backward_s
        rows = []
        for position in self.positions:
            here, upstream = self.at(position), self.places.position > position
            moves = total(self._move(q) for q in self.positions[position - 1 : -1])
            if self.trains:
                there_and_back = self.total(both_s, upstream) + 2 * moves + self.total(self.batches * both_s, here)
                rows.append(there_and_back + host_forward + host_backward + 2 * host_move + begin + finish)
                own_s = self.batches * (both_s + c.host_backward_s) + tail_s
                forward = self.total(c.forward_s, upstream) + moves + self.total(own_s, here)
                rows.append(forward + host_forward + host_move + begin)
            else:
                all_moves = total(self._move(q) for q in self.positions[:-1])
                passes = self.total(c.forward_s, ~here) + self.total(self.batches * c.forward_s, here)
                rows.append(passes + all_moves + begin + out)
            load_s = self.batches * (both_s + c.host_forward_s + c.host_backward_s) + tail_s
            rows.extend([self.total(load_s, here), self.total(c.port_s, here)])
        if self.problem.shared:
            air, ends = self.total(self._air_s()), self.total(self.batches * self._ends_s())
            rows.append(air + ends + self.total(c.sums_s))
            if self.trains:
                rows.append(self.total(both_s, c.first == 0) + host_forward + host_backward + air + begin + finish)
        if self.problem.workload.generates:
            steps = self._steps()
            if self.problem.space.token_groups != (1,):
                steps = self._followed(steps)
            rows = [row + steps for row in rows]
        self.add("makespan", [row - self.makespan_s for row in rows], "<=")
        if np.isfinite(limit_s):
            self.add("QoE", [self.makespan_s], "<=", limit_s)

    def _steps(self) -> Form:
        """Seconds of all steps after the first token of one group, one after the other."""
        c = self.c
        hands_on = ~((c.first == 0) & (c.stop == self.layers))  # every stage of several sends once in a step
        messages = self.problem.workload.decode_steps * self.problem.message_s * hands_on
        if self.problem.shared:
            return self.total(c.decode_s + c.token_send_s + c.token_receive_s + messages)
        return total([self.total(c.decode_s + messages), *self.token_moves])

    def _followed(self, round_s: Form) -> Form:
        """At least the rounds of one group, and all that a stage or the medium has to do for all groups."""
        c, all_s = self.c, over(self.rows.variables("tokens"))
        loads = [round_s, *(self.total(c.steps_s, self.at(position)) for position in self.positions)]
        if self.problem.shared:
            loads.append(self.total(c.token_groups * (c.token_send_s + c.token_receive_s)))
        self.add("tokens", [load - all_s for load in loads], "<=")
        return all_s

    def _move(self, position: int) -> Form:
        """Seconds to move a micro-batch from the stage before a position (0: from a hosted first layer)."""
        ahead, send_s, behind = self._ends_of_move(position)
        messages = self.problem.message_s * self.total(ahead)
        if self.problem.shared:
            return self.total(send_s, ahead) + self.total(self.c.receive_s, behind) + messages
        return self.moves[position] + messages

    def ports(self) -> None:
        """On a switch a move lasts as long as the busier of the transmit and the receive ports."""
        if self.problem.shared:
            return
        for position, move in enumerate(self.moves):
            ahead, send_s, behind = self._ends_of_move(position)
            for part in (self.total(send_s, ahead), self.total(self.c.receive_s, behind)):
                self.add("ports", [part - move], "<=")
        for position, move in enumerate(self.token_moves):
            # Into position 0 the tokens chosen go back: from the last stage to the first.
            ahead = self.at(position + 1)
            behind = self.at(position) & ~self.first if position else self.first
            for part in (self.total(self.c.token_send_s, ahead), self.total(self.c.token_receive_s, behind)):
                self.add("ports", [part - move], "<=")

    def _ends_of_move(self, position: int) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]:
        """Places that send, the seconds they need, and places that receive."""
        if position == 0:
            return self.c.hosts, self.c.host_send_s, self.places.behind_host
        return self.at(position + 1), self.c.send_s, self.at(position) & ~self.first

    def _air_s(self) -> Floats:
        """Airtime of activations and gradients that each place takes part in."""
        directions = 2 if self.trains else 1
        return np.asarray(directions * self.batches * (self.c.send_s + self.c.receive_s + self.c.host_send_s))

    def _ends_s(self) -> Floats:
        """Airtime of a micro-batch's input, label and output."""
        c = self.c
        return np.asarray(c.input_s * ((c.first == 0) | c.hosts) + (c.label_s + c.output_s) * self.last)

    # ------------------------------------------------------------------ energy and period

    def energy(self, limit_j: float) -> None:
        """Energy of computing, sending and idling.

        Idle energy is draw x use x makespan: for every device of a type a variable that is at least the makespan if
        the device is used. That is exact, since nothing rewards it for being larger.
        """
        problem = self.problem
        spent = self.total(self.c.energy_j)
        idle_j = 0.0
        if problem.workload.arrival_s is not None:  # idling lasts from one arrival to the next
            if problem.idle_all_w is None:
                spent = spent + self.total(self.c.idle_w * problem.workload.arrival_s)
            else:
                idle_j = problem.idle_all_w * problem.workload.arrival_s
        elif problem.idle_all_w is not None:
            spent = spent + problem.idle_all_w * self.makespan_s
        else:
            horizon_s = self._horizon_s()
            self.add("energy", [self.makespan_s], "<=", horizon_s)
            counts = problem.fleet.used[self.c.code]
            for kind, members in enumerate(problem.fleet.types):
                used = total(self.used[device] for device in members) - self.total(counts[:, kind])
                self.add("energy", [used], "=")
                for device in members:
                    awake = self.makespan_s - self.awake_s[device]
                    self.add("energy", [awake + horizon_s * self.used[device]], "<=", horizon_s)
                    spent = spent + problem.cluster.devices[device].idle_w * self.awake_s[device]
        self.add("energy", [spent - self.energy_j], "<=", -idle_j)
        if np.isfinite(limit_j):
            self.add("QoE", [self.energy_j], "<=", limit_j)

    def batteries(self) -> None:
        """A column lasts as long as the batteries of its devices: makespan <= cap where the column is chosen.

        Under the accounting ``all-on`` idle batteries limit the makespan of every plan, see
        :class:`~dora_nb.formulation.terms.Terms`; that limit is the caller's latency limit.
        """
        horizon_s = self._horizon_s()
        if (self.c.cap_s >= horizon_s).all():
            return
        caps_s = np.clip(self.c.cap_s, -1.0, horizon_s)  # no makespan is below 0, so -1 rules a column out
        self.add("batteries", [self.makespan_s], "<=", horizon_s)
        for column in np.unique(self.places.column[caps_s < horizon_s]):
            here = self.places.column == column
            excess_s = self.total(horizon_s - caps_s, here)
            self.add("batteries", [self.makespan_s + excess_s], "<=", horizon_s)

    def soft_limits(self, valued: bool) -> None:
        """The objective with what soft limits add; each excess is a variable of its own, at least the excess.

        A shortfall of throughput is concave in the makespan, so its cost is bounded from below by the chord up to the
        longest makespan there can be: valid, and exact at both ends. Memory is counted with the least in-flight
        counts, as in the rows of the search.
        """
        terms, qoe = self.problem.terms, self.problem.terms.qoe
        if not valued:
            return
        makespan, energy = self.makespan_s, self.energy_j
        value = makespan if qoe.objective == "latency" else energy + (qoe.joules_per_s or 0.0) * makespan
        for late in self.late_s:
            self.add("soft", [makespan - late], "<=", qoe.latency_s or 0.0)
            value = value + (qoe.latency_price or 0.0) * late
        for short in self.short_cost:
            value = value + short
            from_s, to_s = terms.batch / (qoe.samples_per_s or np.inf), self._horizon_s()
            if to_s > from_s:
                slope = (qoe.throughput_price or 0.0) * ((qoe.samples_per_s or 0.0) - terms.batch / to_s)
                slope /= to_s - from_s
                self.add("soft", [slope * makespan - short], "<=", slope * from_s)
                self.add("soft", [makespan], "<=", to_s)
        for above in self.over_j:
            self.add("soft", [energy - above], "<=", qoe.energy_j or 0.0)
            value = value + (qoe.energy_price or 0.0) * above
        for index, beyond in enumerate(self.beyond_j):
            on_s = self.makespan_s if terms.all_on else self.awake_s[terms.priced[index]]
            drawn = self.total(self.c.battery_j[:, index]) + float(terms.priced_w[index]) * on_s
            self.add("soft", [drawn - beyond], "<=", float(terms.priced_j[index]))
            value = value + (qoe.battery_price or 0.0) * beyond
        if qoe.headroom_price:
            depth = min(self.problem.space.in_flight_depths)
            held = np.minimum(self.batches, 1 + depth * (self.places.position - 1)) if self.trains else 1
            count = np.minimum(held, self.c.over_bytes.shape[1])
            filled = self.c.over_bytes[np.arange(len(self.c)), count - 1]
            value = value + qoe.headroom_price * self.total(filled)
        self.add("soft", [value - self.value], "<=")

    def _horizon_s(self) -> float:
        """No chain of these columns has rows above this: every stage's work and transfers, one after the other."""
        c = self.c
        own_s = self.batches * (c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s)
        moves_s = 2 * self.batches * (c.send_s + c.receive_s + c.host_send_s + c.input_s + c.label_s + c.output_s)
        own_s = own_s + c.token_groups * (c.decode_s + c.token_send_s + c.token_receive_s)
        tails_s = c.sum_hold_s + c.sum_tail_s + 2 * (c.tied_gather_s + c.tied_part_s + c.tied_spread_s) + c.step_s
        trips_s = c.input_trip_s + c.output_trip_s
        messages_s = (8 + self.problem.workload.decode_steps) * self.problem.message_s
        per_place_s = own_s + moves_s + tails_s + trips_s + messages_s + c.port_s
        return float(sum(per_place_s[self.at(position)].max(initial=0.0) for position in self.positions))

    def arrivals(self, arrival_s: float) -> None:
        """A stage, the medium and a port are done with a request before the next one arrives."""
        c = self.c
        loads = [self.total(self.batches * c.forward_s, self.at(position)) for position in self.positions]
        loads.extend(self.total(c.port_s, self.at(position)) for position in self.positions)
        if self.problem.shared:
            loads.append(self.total(self._air_s() + self.batches * self._ends_s()))
        self.add("arrivals", loads, "<=", arrival_s)

    def period(self) -> None:
        """Steady-state seconds between micro-batches: the load of every stage and of the medium."""
        c = self.c
        load_s = c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s
        rows = [self.total(load_s, self.at(position)) for position in self.positions]
        if self.problem.shared:
            rows.append(self.total(self._air_s() / self.batches + self._ends_s()))
        self.add("period", [row - self.period_s for row in rows], "<=")
