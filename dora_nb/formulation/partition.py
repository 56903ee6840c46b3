"""The partition model: which columns make up the pipeline, as a mixed-integer program.

A binary says that a column stands at a position, counted from the end of the pipeline, so in-flight counts and memory
are known for each and the number of stages is free. Columns of several micro-batch sizes compete in one model. The
makespan rows are valid lower bounds, the same ones the bounding search uses; the program therefore bounds every plan
made of its columns, and the search and the program check each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem

if TYPE_CHECKING:
    import linopy


@dataclass(frozen=True)
class PartitionModel:
    """A partition program and what its binaries stand for.

    Attributes
    ----------
    model
        The program. Variables: ``place`` (binary), ``makespan`` in seconds, ``energy`` in joules, ``period`` in
        seconds.
    column, position
        Column and position from the end (1: last stage) of each binary.
    """

    model: linopy.Model
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
    objective: Literal["latency", "energy", "period"],
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
    program.build()
    program.model.add_objective(program.model.variables[_MINIMISED[objective]].sum())
    return PartitionModel(program.model, places.column, places.position)


_MINIMISED = {"latency": "makespan", "energy": "energy", "period": "period"}


def _places(problem: Problem, columns: Columns) -> _Places:
    layers, most = len(problem.workload.layers), len(problem.cluster.devices)
    depth = min(problem.space.in_flight_depths)
    rows: list[tuple[int, int, bool]] = []
    hosting = bool(columns.hosts.any())
    for column in range(len(columns)):
        last = columns.stop[column] == layers
        for position in range(1, 2) if last else range(2, most + 1):
            needed = min(int(columns.micro_batches[column]), 1 + depth * (position - 1))
            if problem.workload.trains and columns.most_in_flight[column] < needed:
                break
            rows.append((column, position, False))
            if hosting and columns.first[column] == 1 and not last:
                rows.append((column, position, True))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return _Places(table[:, 0], table[:, 1], table[:, 2].astype(bool))


class _Program:
    """Builds the rows, one family of constraints per method.

    A row is an array with one coefficient for every variable: the binaries first, then the continuous ones. Rows are
    collected by family and each family is handed to linopy at once, because an expression a row takes it a hundred
    times as long.
    """

    def __init__(self, problem: Problem, columns: Columns, places: _Places) -> None:
        import linopy  # heavy, and only needed here

        self.problem, self.places = problem, places
        self.c = columns.take(places.column)
        self.layers = len(problem.workload.layers)
        self.trains = problem.workload.trains
        self.batches = self.c.micro_batches
        self.first = (self.c.first == 0) | places.behind_host
        self.last = places.position == 1
        self.positions = range(1, int(places.position.max()) + 1)
        self.model = linopy.Model()
        self.labels: list[int] = []
        self.rows: dict[str, list[tuple[Floats, str, float]]] = {}
        self._variables("place", len(places.column), binary=True)
        self.makespan_s = self._variables("makespan", 1)[0]
        self.energy_j = self._variables("energy", 1)[0]
        self.period_s = self._variables("period", 1)[0]
        # Every variable that is added later widens the rows, so those the rows need are all declared here.
        self.moves = self._variables("move", len(self.positions)) if not problem.shared else []
        count = len(problem.cluster.devices) if problem.idle_all_w is None else 0
        self.used = self._variables("used", count, binary=True)
        self.awake_s = self._variables("awake", count)

    def _variables(self, name: str, count: int, binary: bool = False) -> list[int]:
        """Add variables; returns their places in a row."""
        if not count:
            return []
        start = len(self.labels)
        indices = [range(count)]
        if binary:
            added = self.model.add_variables(binary=True, coords=indices, dims=["i"], name=name)
        else:
            added = self.model.add_variables(lower=0.0, coords=indices, dims=["i"], name=name)
        self.labels.extend(added.labels.values.tolist())
        return list(range(start, start + count))

    def add(self, family: str, rows: list[Floats], sense: Literal["<=", "="], bound: float = 0.0) -> None:
        """Collect rows ``row . variables (<= or =) bound``."""
        self.rows.setdefault(family, []).extend((row, sense, bound) for row in rows)

    def build(self) -> None:
        """Hand the collected rows to linopy."""
        import linopy
        import xarray as xr

        for family, entries in self.rows.items():
            rows, senses, bounds = zip(*entries, strict=True)
            matrix = np.array(rows)
            terms = matrix != 0
            width = max(int(terms.sum(axis=1).max()), 1)
            order = np.argsort(~terms, axis=1, kind="stable")[:, :width]  # a row's terms first, then padding
            present = np.take_along_axis(terms, order, axis=1)
            data = xr.Dataset(
                {
                    "coeffs": (("row", "_term"), np.where(present, np.take_along_axis(matrix, order, axis=1), np.nan)),
                    "vars": (("row", "_term"), np.where(present, np.array(self.labels)[order], -1)),
                },
                coords={"row": range(len(matrix))},
            )
            expression = linopy.LinearExpression(data, self.model)
            sign, bound = (xr.DataArray(np.array(values), dims=["row"]) for values in (senses, bounds))
            self.model.add_constraints(expression, sign, bound, name=family)

    def total(self, coefficients: Floats | Ints | NDArray[np.bool_], where: NDArray[np.bool_] | bool = True) -> Floats:
        """Sum of coefficient times binary, over some of the places."""
        row = np.zeros(len(self.labels))
        row[: len(self.places.column)] = np.asarray(coefficients, dtype=float) * where
        return row

    def variable(self, place: int, coefficient: float = 1.0) -> Floats:
        """One variable, as a row."""
        row = np.zeros(len(self.labels))
        row[place] = coefficient
        return row

    def at(self, position: int) -> NDArray[np.bool_]:
        """Places at one position."""
        return np.asarray(self.places.position == position)

    # ------------------------------------------------------------------ which columns

    def flow(self) -> None:
        """One chain of columns of one micro-batch size covers every layer once.

        One last stage and one first stage; at every cut between them, the stage that starts there has one behind it
        that ends there. A hosted first layer takes the place of the stage before cut 1.
        """
        self.add("flow", [self.total(self.last), self.total(self.first)], "=", 1)
        hosts: list[Floats] = []
        meetings: list[Floats] = []
        for micro_batch in np.unique(self.c.micro_batch):
            family = self.c.micro_batch == micro_batch
            hosts.append(self.total(self.c.hosts, family) - self.total(self.places.behind_host, family))
            for position in self.positions:
                starts = family & self.at(position) & ~self.first
                ends = family & self.at(position + 1)
                cuts = np.unique(np.concatenate([self.c.first[starts], self.c.stop[ends]]))
                meetings.extend(self._meeting(starts & (self.c.first == k), ends & (self.c.stop == k)) for k in cuts)
        self.add("flow", hosts + meetings, "=")

    def _meeting(self, starting: NDArray[np.bool_], ending: NDArray[np.bool_]) -> Floats:
        return self.total(starting) - self.total(ending)

    def devices(self) -> None:
        """Every device is used at most once: a group takes some devices of each type."""
        counts = self.problem.fleet.used[self.c.code]
        for kind, available in enumerate(self.problem.fleet.available.tolist()):
            self.add("devices", [self.total(counts[:, kind])], "<=", available)

    # ------------------------------------------------------------------ makespan

    def makespan(self, limit_s: float) -> None:
        """Lower bounds on the makespan, see :mod:`dora_nb.planning.search`; and the latency limit."""
        c, message_s = self.c, self.problem.message_s
        tail_s = self.c.tail_s(self.problem.shared)
        starts_here = (c.first == 0) | c.hosts  # the stage whose devices run the first layer
        begin = self.total(np.where(c.input_s > 0, c.input_s + message_s, 0.0), starts_here)
        finish = self.total(tail_s, starts_here)
        if self.problem.shared:  # the exchange of tied gradients holds the medium for the other end's part as well
            finish = finish + self.total(c.tied_part_s, self.last & ~starts_here)
        out = self.total(np.where(c.output_s > 0, c.output_s + message_s, 0.0), self.last)
        host_forward, host_backward = self.total(c.host_forward_s), self.total(c.host_backward_s)
        host_move = self._move(0)
        both_s = c.forward_s + c.backward_s
        rows = []
        for position in self.positions:
            here, upstream = self.at(position), self.places.position > position
            moves = sum((self._move(q) for q in self.positions[position - 1 : -1]), start=self.total(0 * both_s))
            if self.trains:
                there_and_back = self.total(both_s, upstream) + 2 * moves + self.total(self.batches * both_s, here)
                rows.append(there_and_back + host_forward + host_backward + 2 * host_move + begin + finish)
                own_s = self.batches * (both_s + c.host_backward_s) + tail_s
                forward = self.total(c.forward_s, upstream) + moves + self.total(own_s, here)
                rows.append(forward + host_forward + host_move + begin)
            else:
                all_moves = sum((self._move(q) for q in self.positions[:-1]), start=self.total(0 * both_s))
                passes = self.total(c.forward_s, ~here) + self.total(self.batches * c.forward_s, here)
                rows.append(passes + all_moves + begin + out)
            load_s = self.batches * (both_s + c.host_forward_s + c.host_backward_s) + tail_s
            rows.extend([self.total(load_s, here), self.total(c.port_s, here)])
        if self.problem.shared:
            air, ends = self.total(self._air_s()), self.total(self.batches * self._ends_s())
            rows.append(air + ends + self.total(c.sums_s))
            if self.trains:
                rows.append(self.total(both_s, c.first == 0) + host_forward + host_backward + air + begin + finish)
        self.add("makespan", [row - self.variable(self.makespan_s) for row in rows], "<=")
        if np.isfinite(limit_s):
            self.add("QoE", [self.variable(self.makespan_s)], "<=", limit_s)

    def _move(self, position: int) -> Floats:
        """Seconds to move a micro-batch from the stage before a position (0: from a hosted first layer)."""
        ahead, send_s, behind = self._ends_of_move(position)
        messages = self.problem.message_s * self.total(ahead)
        if self.problem.shared:
            return self.total(send_s, ahead) + self.total(self.c.receive_s, behind) + messages
        return self.variable(self.moves[position]) + messages

    def ports(self) -> None:
        """On a switch a move lasts as long as the busier of the transmit and the receive ports."""
        if self.problem.shared:
            return
        for position, move in enumerate(self.moves):
            ahead, send_s, behind = self._ends_of_move(position)
            for part in (self.total(send_s, ahead), self.total(self.c.receive_s, behind)):
                self.add("ports", [part - self.variable(move)], "<=")

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
        total = self.total(self.c.energy_j)
        if problem.idle_all_w is not None:
            total = total + self.variable(self.makespan_s, problem.idle_all_w)
        else:
            horizon_s = self._horizon_s()
            self.add("energy", [self.variable(self.makespan_s)], "<=", horizon_s)
            counts = problem.fleet.used[self.c.code]
            for kind, same in enumerate(problem.fleet.types):
                used = sum((self.variable(self.used[d]) for d in same), start=-self.total(counts[:, kind]))
                self.add("energy", [used], "=")
                for device in same:
                    awake = self.variable(self.makespan_s) - self.variable(self.awake_s[device])
                    self.add("energy", [awake + self.variable(self.used[device], horizon_s)], "<=", horizon_s)
                    total = total + self.variable(self.awake_s[device], problem.cluster.devices[device].idle_w)
        self.add("energy", [total - self.variable(self.energy_j)], "<=")
        if np.isfinite(limit_j):
            self.add("QoE", [self.variable(self.energy_j)], "<=", limit_j)

    def _horizon_s(self) -> float:
        """No chain of these columns has rows above this: every stage's work and transfers, one after the other."""
        c = self.c
        own_s = self.batches * (c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s)
        moves_s = 2 * self.batches * (c.send_s + c.receive_s + c.host_send_s + c.input_s + c.label_s + c.output_s)
        tails_s = c.sum_hold_s + 2 * (c.tied_gather_s + c.tied_part_s + c.tied_spread_s) + c.step_s
        per_place_s = own_s + moves_s + tails_s + 8 * self.problem.message_s + c.port_s
        return float(sum(per_place_s[self.at(position)].max(initial=0.0) for position in self.positions))

    def period(self) -> None:
        """Steady-state seconds between micro-batches: the load of every stage and of the medium."""
        c = self.c
        load_s = c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s
        rows = [self.total(load_s, self.at(position)) for position in self.positions]
        if self.problem.shared:
            rows.append(self.total(self._air_s() / self.batches + self._ends_s()))
        self.add("period", [row - self.variable(self.period_s) for row in rows], "<=")
