"""Which layers of which stream run where, as a mixed-integer program: integer flows through cuts and devices.

Equal cameras are one flow of as many units. A unit enters at the first cut, passes stages (layers on a device) and
hand-overs (a cut, from device to device), and leaves at the last one. Rows: no device and no medium is asked for more
than all of the time; memory, equal layers once; deadlines, summed over equal cameras; no more stages on a device than
cameras. Waiting is left out, and so is when requests come, so its optimum is a bound on every timetable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dora_nb.costs.network import Hold
from dora_nb.costs.sharing import model_of
from dora_nb.costs.table import Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.rows import Form, LinearProgram, Rows, over, total
from dora_nb.formulation.sharing.paths import Path, Paths, Step

#: What is minimised: mean seconds of a request that never waits, mean watts, or the highest load of any place, which
#: then may exceed 1 and knows no deadlines.
Aim = Literal["latency", "energy", "load"]


@dataclass(frozen=True)
class Group:
    """Cameras that are alike to the program.

    Attributes
    ----------
    paths
        Where their layers may run.
    count
        How many they are.
    per_s
        Requests of one of them per second.
    deadline_s
        Infinity: none.
    """

    paths: Paths
    count: int
    per_s: float
    deadline_s: float


class ChoiceProgram:
    """The program, and what its variables mean.

    Parameters
    ----------
    groups
        All streams.
    cluster
        What they share.
    aim
        What is minimised.
    accounting
        Whose idle draw counts.
    """

    def __init__(
        self, groups: Sequence[Group], cluster: Cluster, aim: Aim, accounting: EnergyAccounting = "participating"
    ) -> None:
        self.groups, self.cluster, self.aim, self.accounting = tuple(groups), cluster, aim, accounting
        self.devices = range(len(cluster.devices))
        self.stages: list[tuple[int, Step]] = []
        self.moves: list[tuple[int, tuple[int, int, int]]] = []
        for number, group in enumerate(self.groups):
            limit_s = np.inf if aim == "load" else group.deadline_s * (1 + ROUNDING)
            allowed = np.isfinite(group.paths.stage_s) & (group.paths.around_s <= limit_s)
            self.stages.extend((number, Step(*place)) for place in np.argwhere(allowed).tolist())
            self.moves.extend((number, key) for key in group.paths.moves)

    @property
    def possible(self) -> bool:
        """Whether every group has a stage left at all."""
        return {number for number, _ in self.stages} == set(range(len(self.groups)))

    def model(self, without: Sequence[Sequence[Path]] = (), most_load: float = 1.0) -> LinearProgram:
        """The program.

        Parameters
        ----------
        without
            Choices that do not count: a path for every group, where each group is one camera.
        most_load
            Share of the time for which any device or medium may be asked.
        """
        rows = Rows()
        stage_most = np.array([self.groups[number].count for number, _ in self.stages], dtype=float)
        move_most = np.array([self.groups[number].count for number, _ in self.moves], dtype=float)
        stage = rows.variables("stage", len(self.stages), upper=stage_most, kind="integer")
        move = rows.variables("move", len(self.moves), upper=move_most, kind="integer")
        self._flows(rows, stage, move)
        loads = self._loads(stage, move)
        highest = rows.variables("highest") if self.aim == "load" else None
        for form in loads.values():
            if highest is not None:
                rows.add("load", form - over(highest), "<=")
            else:
                rows.add("load", form, "<=", most_load + ROUNDING)
        self._memory(rows, stage)
        seconds, joules = self._seconds_and_joules(stage, move)
        if self.aim != "load":
            for number, group in enumerate(self.groups):
                if np.isfinite(group.deadline_s):
                    most_s = group.count * group.deadline_s * (1 + ROUNDING)
                    rows.add("deadline", seconds[number], "<=", most_s)
        for paths in without:
            chosen = [place for place, (number, step) in enumerate(self.stages) if step in paths[number]]
            rows.add("without", over(stage[chosen]), "<=", len(chosen) - 1)
        return rows.build(self._objective(rows, stage, seconds, joules, highest))

    def _objective(
        self, rows: Rows, stage: Ints, seconds: Sequence[Form], joules: Sequence[Form], highest: Ints | None
    ) -> Form:
        if highest is not None:
            return over(highest)
        per_s = [group.per_s for group in self.groups]
        if self.aim == "latency":
            every = sum(group.count * group.per_s for group in self.groups)
            return total(rate / every * form for rate, form in zip(per_s, seconds, strict=True))
        power = total(rate * form for rate, form in zip(per_s, joules, strict=True))
        if self.accounting == "all-on":
            return power
        used = rows.variables("used", len(self.devices), kind="binary")
        for number, group in enumerate(self.groups):
            for device in self.devices:
                own = self._where(number, device)
                rows.add("used", over(stage[own]) - over(used[[device]], float(group.count)), "<=")
        return power + over(used, np.array([device.idle_w for device in self.cluster.devices]))

    @property
    def constant(self) -> float:
        """What the objective leaves out: the idle draw of a cluster that is on as a whole."""
        if self.aim != "energy" or self.accounting == "participating":
            return 0.0
        return sum(device.idle_w for device in self.cluster.devices)

    def _where(self, number: int, device: int) -> list[int]:
        return [place for place, (own, step) in enumerate(self.stages) if own == number and step.device == device]

    def _flows(self, rows: Rows, stage: Ints, move: Ints) -> None:
        """What reaches a cut on a device is handed over from there, and what is handed over is computed."""
        into: dict[tuple[int, int, int], list[int]] = {}
        out: dict[tuple[int, int, int], list[int]] = {}
        for place, (number, step) in enumerate(self.stages):
            into.setdefault((number, step.first, step.device), []).append(int(stage[place]))
            out.setdefault((number, step.stop, step.device), []).append(int(stage[place]))
        sent: dict[tuple[int, int, int], list[int]] = {}
        arrived: dict[tuple[int, int, int], list[int]] = {}
        for place, (number, (cut, a, b)) in enumerate(self.moves):
            sent.setdefault((number, cut, a), []).append(int(move[place]))
            arrived.setdefault((number, cut, b), []).append(int(move[place]))
        for number, group in enumerate(self.groups):
            begins = [each for device in self.devices for each in into.get((number, 0, device), [])]
            rows.add("begin", over(begins), "=", float(group.count))
            for device in self.devices:
                rows.add("once", over(stage[self._where(number, device)]), "<=", float(group.count))
                for cut in range(1, group.paths.layers):
                    key = (number, cut, device)
                    rows.add("sent", over(out.get(key, [])) - over(sent.get(key, [])), "=")
                    rows.add("arrived", over(arrived.get(key, [])) - over(into.get(key, [])), "=")

    def _ends(self, number: int, step: Step) -> Iterator[Hold]:
        """The input's and the output's way, of a first and of a last stage."""
        paths = self.groups[number].paths
        if step.first == 0 and (hold := paths.enters[step.device]) is not None:
            yield hold
        if step.stop == paths.layers and (hold := paths.leaves[step.device]) is not None:
            yield hold

    def _loads(self, stage: Ints, move: Ints) -> Mapping[str, Form]:
        """Share of the time that every device and medium is asked for."""
        asked: dict[str, list[tuple[int, float]]] = {}
        for place, (number, step) in enumerate(self.stages):
            group = self.groups[number]
            seconds = float(group.paths.stage_s[step])
            asked.setdefault(self.cluster.device_ids[step.device], []).append(
                (int(stage[place]), group.per_s * seconds)
            )
            for hold in self._ends(number, step):
                for name, held_s in hold.seconds.items():
                    asked.setdefault(name, []).append((int(stage[place]), group.per_s * held_s))
        for place, (number, key) in enumerate(self.moves):
            group = self.groups[number]
            for name, held_s in group.paths.moves[key].seconds.items():
                asked.setdefault(name, []).append((int(move[place]), group.per_s * held_s))
        return {name: over(*(np.array(side) for side in zip(*terms, strict=True))) for name, terms in asked.items()}

    def _seconds_and_joules(self, stage: Ints, move: Ints) -> tuple[list[Form], list[Form]]:
        """Of one request of each camera, summed over the cameras of every group."""
        seconds, joules = [], []
        for number, group in enumerate(self.groups):
            own = [place for place, (each, _) in enumerate(self.stages) if each == number]
            moved = [place for place, (each, _) in enumerate(self.moves) if each == number]
            holds = [group.paths.moves[self.moves[place][1]] for place in moved]
            took = [float(group.paths.stage_s[self.stages[place][1]]) for place in own]
            ends = [list(self._ends(number, self.stages[place][1])) for place in own]
            stage_s = np.array(took) + [sum(hold.duration_s for hold in each) for each in ends]
            stage_j = np.array(took) * [group.paths.extra_w[self.stages[place][1].device] for place in own]
            stage_j = stage_j + [sum(hold.energy_j for hold in each) for each in ends]
            move_s = np.array([hold.duration_s for hold in holds])
            move_j = np.array([hold.energy_j for hold in holds])
            seconds.append(over(stage[own], stage_s) + over(move[moved], move_s))
            joules.append(over(stage[own], stage_j) + over(move[moved], move_j))
        return seconds, joules

    def _memory(self, rows: Rows, stage: Ints) -> None:
        """Layers of one model are held once on a device; buffers and working sets by every camera's stage."""
        models: dict[object, list[int]] = {}
        for number, group in enumerate(self.groups):
            models.setdefault(model_of(group.paths.workload), []).append(number)
        most = sum(group.count * float(group.paths.buffer_bytes.max()) for group in self.groups)
        most += sum(sum(self._layer_bytes(numbers[0])) for numbers in models.values())
        for device in self.devices:
            usable_bytes = self.cluster.devices[device].usable_memory_bytes
            if most <= usable_bytes:
                continue
            buffers = [
                (int(stage[place]), float(self.groups[number].paths.buffer_bytes[step.first, step.stop]) / usable_bytes)
                for place, (number, step) in enumerate(self.stages)
                if step.device == device
            ]
            needed = total([over(*(np.array(side) for side in zip(*buffers, strict=True)))] if buffers else [])
            for place, numbers in enumerate(models.values()):
                sizes = np.array(self._layer_bytes(numbers[0]))
                held = rows.variables(f"held_{device}_{place}", len(sizes), kind="binary")
                needed = needed + over(held, sizes / usable_bytes)
                for number in numbers:
                    own = [(p, step) for p in self._where(number, device) for step in [self.stages[p][1]]]
                    for layer in range(len(sizes)):
                        there = [int(stage[p]) for p, step in own if step.first <= layer < step.stop]
                        count = float(self.groups[number].count)
                        rows.add("held", over(there) - over(held[[layer]], count), "<=")
            rows.add("memory", needed, "<=", 1 + ROUNDING)

    def _layer_bytes(self, number: int) -> list[float]:
        """Parameters of every layer in bytes; tied ones count with the last layer only, whoever holds the first."""
        work = self.groups[number].paths.workload
        sizes = [float(layer.parameters * work.bytes_per_element) for layer in work.layers]
        sizes[0] -= work.tied_parameters * work.bytes_per_element
        return sizes

    def paths_of(self, values: Mapping[str, Floats]) -> list[list[Path]]:
        """A path for every camera of every group; a device may come twice in one where cameras were summed."""
        stage = dict(zip(self.stages, np.rint(values["stage"]).astype(int).tolist(), strict=True))
        moved = np.rint(values["move"]).astype(int).tolist() if self.moves else []
        move = dict(zip(self.moves, moved, strict=True))
        found: list[list[Path]] = []
        for number, group in enumerate(self.groups):
            found.append([self._peel(number, group.paths.layers, stage, move) for _ in range(group.count)])
        return found

    def _peel(
        self,
        number: int,
        layers: int,
        stage: dict[tuple[int, Step], int],
        move: dict[tuple[int, tuple[int, int, int]], int],
    ) -> Path:
        """Take one unit out of the flow of a group."""
        path: list[Step] = []
        cut, devices = 0, list(self.devices)
        while cut < layers:
            own = (each for (each_number, each), left in stage.items() if each_number == number and left)
            step = next(each for each in own if each.first == cut and each.device in devices)
            stage[number, step] -= 1
            path.append(step)
            cut = step.stop
            if cut < layers:
                target = next(
                    b for (n, (c, a, b)), left in move.items() if (n, c, a) == (number, cut, step.device) and left
                )
                move[number, (cut, step.device, target)] -= 1
                devices = [target]
        return tuple(path)
