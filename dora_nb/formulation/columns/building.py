"""Making the columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Algorithm, Weights, checked_weights
from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.columns.computing import Computing
from dora_nb.formulation.columns.dominance import TELLING, not_dominated
from dora_nb.formulation.columns.held import Held, is_whole, part_vectors, share_vectors
from dora_nb.formulation.columns.memory import Memory
from dora_nb.formulation.columns.pairs import count_until, needed, numbered, picked, restricted, sought_only
from dora_nb.formulation.columns.record import Choice, Columns, Considered, Screen
from dora_nb.formulation.columns.shard_sums import ShardSums
from dora_nb.formulation.columns.sums import Sums
from dora_nb.formulation.columns.transfers import Transfers
from dora_nb.formulation.fleet import Group, Ints
from dora_nb.formulation.problem import Problem


def build_columns(
    problem: Problem,
    most_devices: int,
    screen: Screen | None = None,
    *,
    beaten: bool = False,
    least_devices: int = 1,
    codes: Collection[int] | None = None,
) -> Columns:
    """All columns of a problem whose memory suffices for at least one micro-batch in flight.

    A stage recomputes only with more micro-batches in flight than fit without (and, where a headroom of memory has a
    price, than fit in the room below it). With as many as fit, a plan loses nothing when the stage does not recompute:
    every operation lasts as long or less and none is added, so no transfer, in the same order, starts later; devices
    compute less and idle for no longer; and nothing is paid for memory. So columns that recompute are added only where
    memory is scarce, and :attr:`Columns.least_in_flight` keeps them from being looked at elsewhere.

    Weights are held in fewer bits, where that is allowed, if a forward pass, a step of generation or the joules get
    less by it, or if they do not fit otherwise (or only beyond a priced headroom), than with more bits of every kind:
    elsewhere the same column with more bits is as good in every figure.

    Where layers may be sliced, a group is also in columns whose devices hold parts of them, by every way to share the
    parts out; layers that cannot be sliced are whole on each.

    Columns over (interval, device group) follow the pipeline-partition models of the literature; uneven integer
    shares and hosted tied layers are our own.

    Parameters
    ----------
    problem
        What is planned.
    most_devices
        Devices of a stage; at most the space's own limits.
    screen
        Leaves out columns that cannot matter; it is asked with lower bounds before share vectors are looked at, and
        again with the columns' own figures.
    beaten
        Keep share vectors that others beat as well: on other durations they may beat those.
    least_devices
        Fewest devices of a stage; at most what a micro-batch, or a layer, of the space can be shared out on.
    codes
        Of which groups to make columns, some of them of a size that is allowed; None: of all.
    """
    builder = _Builder(problem, screen or _everything, beaten)
    workload, space = problem.workload, problem.space
    choices: list[tuple[Held, _Way]] = []
    first_choice = [0]
    parts: list[Part] = []  # the first may be empty: it says which figures there are
    for family, (micro_batch, token_groups) in enumerate(space.families(workload.batch)):
        most = max(min(space.most_replicas, micro_batch), space.shards)
        groups = [
            group for group in problem.fleet.groups(min(most_devices, most)) if len(group.devices) >= least_devices
        ]
        if codes is not None:
            groups = [group for group in groups if group.code in codes]
        for held in builder.batches(micro_batch, token_groups, groups, skip_empty=bool(parts)):
            for way, part, own in builder.columns(held, skip_empty=bool(parts)):
                part["place"] = family * problem.fleet.codes + part["code"]
                part["choice"] += first_choice[-1]
                parts.append(part)
                choices.append((own, way))
                first_choice.append(first_choice[-1] + len(own.groups) * len(own.shares))
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    place = merged.pop("place")
    if (np.diff(place) < 0).any():
        order = np.argsort(place, kind="stable")
        merged = {name: values[order] for name, values in merged.items()}
    used, at = numbered(merged["choice"])
    merged["choice"] = at
    found = np.searchsorted(first_choice, used, side="right") - 1
    made = [(*choices[part], int(index) - first_choice[part]) for part, index in zip(found, used, strict=True)]
    made_as = tuple(_choice(*each) for each in made)
    return Columns(**merged, choices=made_as, fleet=problem.fleet, batch=workload.batch)


def stage_columns(problem: Problem, micro_batch: int, group: Group, first: int, stop: int) -> Columns:
    """All columns of one group on one range of layers, see :func:`build_columns`; no layer is hosted.

    Parameters
    ----------
    problem
        What is planned.
    micro_batch
        Samples.
    group
        Devices, counted by type.
    first, stop
        The layers.
    """
    builder = _Builder(problem, _everything, beaten=False)
    builder.first, builder.stop = np.array([first]), np.array([stop])
    parts = []
    for held in builder.batches(micro_batch, 1, [group], skip_empty=False):
        for way, part, own in builder.columns(held, skip_empty=False) if not held.hosts else ():
            choices = tuple(_choice(own, way, index) for index in range(len(own.shares)))
            parts.append(Columns(**part, choices=choices, fleet=problem.fleet, batch=problem.workload.batch))
    return Columns.join(parts)


def _everything(stages: Considered) -> NDArray[np.bool_]:
    return np.ones(stages.both_s.shape, dtype=bool)


#: How a group runs a stage: algorithm, whether it recomputes, weights, ``sliced``; see :class:`Choice`.
_Way = tuple[Algorithm, bool, Weights | None, int]

#: Columns as they go into :class:`Columns`.
Part = dict[str, NDArray[Any]]

#: Pairs of a share vector and a stage that are looked at together: many are worth the calls, few fit the cache.
_BLOCK = 40_000


def _choice(held: Held, way: _Way, index: int) -> Choice:
    """Who runs a stage, and how, given the number of a group and a share vector."""
    group, row = divmod(index, len(held.shares))
    return Choice(held.groups[group], tuple(map(int, held.shares[row])), *way)


class _Found(NamedTuple):
    """Columns of groups that run stages in one way.

    Attributes
    ----------
    held
        What is left of the share vectors.
    sought
        Which of them, by stage, may matter as far as time and energy go.
    enough
        Micro-batches in flight that fit without anything being paid for memory.
    parts
        The columns by all-reduce algorithm.
    """

    held: Held
    sought: NDArray[np.bool_]
    enough: Floats
    parts: list[tuple[Algorithm, Part]]


class _Builder:
    """Columns of many stages at a time, all share vectors at once."""

    def __init__(self, problem: Problem, screen: Screen, beaten: bool) -> None:
        self.workload, self.cluster, self.network = problem.workload, problem.cluster, problem.network
        self.problem, self.screen, self.beaten = problem, screen, beaten
        self.layers = len(self.workload.layers)
        ranges = [(i, j) for i in range(self.layers) for j in range(i + 1, self.layers + 1)]
        self.first, self.stop = (np.array(side, dtype=np.int64) for side in zip(*ranges, strict=True))
        self.computing, self.transfers, self.memory = Computing(problem), Transfers(problem), Memory(problem)
        self.sums, self.shard_sums = Sums(problem, self.computing), ShardSums(problem)
        self.idle_w = np.array([device.idle_w for device in self.cluster.devices])

    def batches(
        self, micro_batch: int, token_groups: int, groups: Sequence[Group], *, skip_empty: bool
    ) -> Iterator[Held]:
        """Stages that may matter, of groups whose samples are shared out alike together; hosted layers last.

        With ``skip_empty`` nothing comes of groups that are in no column.
        """
        alike: dict[tuple[object, ...], list[Group]] = {}
        for group in groups:
            counts = tuple(count for count in group.counts if count)
            alike.setdefault((counts, self._is_separable(group)), []).append(group)
        asked: list[tuple[list[Group], NDArray[np.bool_], Ints]] = []
        for twins in alike.values():
            shares = np.zeros((0, len(twins[0].devices)), dtype=np.int64)
            if len(twins[0].devices) <= self.problem.space.most_replicas:
                shares = share_vectors(twins[0], micro_batch, ordered=self._is_separable(twins[0]))
            most = max(1, _BLOCK // len(self.first))
            for start in range(0, len(twins), most):
                few = twins[start : start + most]
                asked.append((few, self._may_matter(micro_batch, token_groups, few), shares))
        micro_batches = self.workload.batch // micro_batch
        for hosts in (False, True) if self.workload.trains_tied else (False,):
            for few, may_matter, shares in asked:
                eligible = may_matter
                if hosts:  # at least one stage is left between the ends
                    eligible = may_matter & (self.stop == self.layers) & (self.first >= 2)
                for begin, end in self._blocks(eligible, max(len(shares), 1)):
                    which, at = np.nonzero(eligible[begin:end])
                    if skip_empty and not len(which):
                        continue
                    yield Held(
                        groups=tuple(few[begin:end]),
                        which=which,
                        shares=shares,
                        first=self.first[at],
                        stop=self.stop[at],
                        micro_batches=micro_batches,
                        token_groups=token_groups,
                        hosts=hosts,
                        recomputes=False,
                        weights=None,
                        micro_batch=micro_batch,
                    )
                    skip_empty = True

    def _blocks(self, eligible: NDArray[np.bool_], rows: int) -> Iterator[tuple[int, int]]:
        """From which group to which there are enough pairs with so many share vectors."""
        begin, pairs = 0, 0
        for group, own in enumerate((rows * eligible.sum(axis=1)).tolist()):
            if pairs and pairs + own > _BLOCK:
                yield begin, group
                begin, pairs = group, 0
            pairs += own
        yield begin, len(eligible)

    def columns(self, whole: Held, *, skip_empty: bool) -> Iterator[tuple[_Way, Part, Held]]:
        """Columns by algorithm and way to run stages, and the groups and share vectors that their ``choice`` counts.

        With ``skip_empty`` nothing comes of a way by which no column is made.
        """
        shape = len(whole.shares), len(whole.first)
        sought, least = np.ones(shape, dtype=bool), np.ones(shape)
        found = self._held_so(whole, sought, least, skip_empty=skip_empty)
        for algorithm, part in found.parts:
            yield (algorithm, False, None, 0), part, found.held
        if self.problem.space.recomputation and self.workload.trains:
            deeper = found.sought & (found.enough < self._deepest(found.held))
            again = found.held._replace(recomputes=True)
            recomputed = self._held_so(again, deeper, 1 + found.enough, skip_empty=True)
            for algorithm, part in recomputed.parts:
                yield (algorithm, True, None, 0), part, recomputed.held
        yield from self._in_fewer_bits(whole)
        if 1 < whole.size <= self.problem.space.shards and not whole.hosts:
            yield from self._sliced(whole)

    def _in_fewer_bits(self, whole: Held) -> Iterator[tuple[_Way, Part, Held]]:
        """Columns with weights in fewer bits, of every kind that is allowed and gains something."""
        wider, least = [whole], np.ones((len(whole.shares), len(whole.first)))
        for weights in checked_weights(self.problem.space.weights, trains=self.workload.trains):
            smaller = whole._replace(weights=weights)
            gains = np.logical_and.reduce([self._gains(smaller, than) for than in wider])
            made = self._held_so(smaller, gains, least, skip_empty=True)
            for algorithm, part in made.parts:
                yield (algorithm, False, weights, 0), part, made.held
            wider.append(smaller)

    def _sliced(self, whole: Held) -> Iterator[tuple[_Way, Part, Held]]:
        """Columns whose devices hold parts of layers, of ranges whose layers can all be sliced alike or not at all."""
        for parts in sorted({layer.parts for layer in self.workload.layers} - {1}):
            if parts < whole.size:
                continue
            by_layer = np.array([layer.parts for layer in self.workload.layers])
            alike, other = (count_until(where) for where in (by_layer == parts, ~np.isin(by_layer, (1, parts))))
            can = (alike[whole.stop] > alike[whole.first]) & (other[whole.stop] == other[whole.first])
            if self.workload.trains_tied:  # no shards at one of two ends that are tied
                inside = (whole.first > 0) & (whole.stop < self.layers)
                can &= inside | is_whole(whole.first, whole.stop, self.layers)
            if not can.any():
                continue
            shares = part_vectors(whole.groups[0], parts, ordered=self._is_separable(whole.groups[0]))
            held = whole._replace(shares=shares, parts=parts)
            every = np.broadcast_to(can, (len(shares), len(can)))
            found = self._held_so(held, every, np.ones(every.shape), skip_empty=True)
            for algorithm, part in found.parts:
                yield (algorithm, False, None, held.micro_batch), part, found.held

    def _held_so(self, held: Held, sought: NDArray[np.bool_], least: Floats, *, skip_empty: bool) -> _Found:
        """Columns of share vectors and stages that are sought, each from so many micro-batches in flight on."""
        held, sought, least = sought_only(held, sought, least)
        if skip_empty and not sought.any():
            return _Found(held, sought, least, [])
        figures = self.computing.figures(held)
        both_s = figures["forward_s"] + figures["backward_s"]
        dynamic_j, decode_s = figures["compute_j"], figures["decode_s"]
        place = held.micro_batch, held.token_groups, held.code, held.first, held.stop
        kept = sought & self.screen(Considered(*place, both_s, decode_s, dynamic_j)) & self._lasts(held, figures)
        if skip_empty and not kept.any():
            return _Found(held, kept, least, [])
        rows, stages = needed(kept)  # the others are not looked at again
        figures = {name: restricted(values, rows, stages) for name, values in figures.items()}
        held, kept, least = sought_only(held, kept, least)
        figures["least_in_flight"] = least
        figures["most_in_flight"] = self.memory.most_in_flight(held)
        figures |= self.memory.over_bytes(held)
        figures |= self.transfers.figures(held)
        if self.workload.generates:
            figures = self.transfers.without_outputs(figures, held.micro_batches)
        fitting = kept & (figures["most_in_flight"] >= least)
        parts = list(self._by_algorithm(held, figures, fitting))
        return _Found(held, kept, self.memory.enough(held, figures["most_in_flight"]), parts)

    def _lasts(self, held: Held, figures: dict[str, Floats]) -> NDArray[np.bool_]:
        """Where batteries last for as long as the stage itself computes, which no makespan is below.

        A column that another one matches or beats in every figure, its battery's included, lasts no longer than that
        one: nothing is lost if those that do not last go first.
        """
        if self.workload.arrival_s is not None:  # a battery's share is one period's then, whatever the makespan
            return np.ones((1, 1), dtype=bool)
        passes_s = held.micro_batches * (figures["forward_s"] + figures["backward_s"])
        own_s = passes_s + figures["step_s"] + figures["steps_s"]
        return np.asarray(figures["cap_s"] * (1 + ROUNDING) >= own_s)

    def _gains(self, smaller: Held, wider: Held) -> NDArray[np.bool_]:
        """Where weights in fewer bits make a stage faster or thriftier, or make it fit."""
        ours, theirs = self.computing.figures(smaller), self.computing.figures(wider)
        fits = self.memory.enough(wider, self.memory.most_in_flight(wider))
        gains = fits < 1
        drawn = [name for name in theirs if name.startswith("battery_j ")]
        for name in ("forward_s", "decode_s", "compute_j", *drawn):
            gains = gains | (ours[name] < theirs[name] * (1 - ROUNDING))
        gains = gains | (ours["cap_s"] > theirs["cap_s"])
        return np.asarray(gains)

    def _deepest(self, held: Held) -> Ints:
        """Most micro-batches that a stage can be asked to hold, given how many stages there may be behind it."""
        behind = np.minimum(self.layers - held.stop, len(self.cluster.devices) - held.size)
        return np.asarray(np.minimum(held.micro_batches, 1 + max(self.problem.space.in_flight_depths) * behind))

    def _by_algorithm(
        self, held: Held, figures: dict[str, Floats], kept: NDArray[np.bool_]
    ) -> Iterator[tuple[Algorithm, Part]]:
        """The columns of every algorithm by which gradients, or outputs of shards, are summed."""
        if held.parts:
            for algorithm, own in self.shard_sums.figures(held, figures).items():
                yield algorithm, self._part(held, figures | own, kept)
            return
        shortest_tail_s: Floats | None = None
        for algorithm, own in self.sums.figures(held, figures["backward_s"]).items():
            useful = kept
            if shortest_tail_s is not None and self.network.single is not None:
                # The first holds the network least; another is worth a look only where it ends sooner.
                useful = kept & (own["sum_tail_s"] < shortest_tail_s)
            shortest_tail_s = own["sum_tail_s"]
            yield algorithm, self._part(held, figures | own, useful)

    def _part(self, held: Held, figures: dict[str, Floats], candidates: NDArray[np.bool_]) -> Part:
        """The columns of one algorithm that none other matches or beats, as they go into :class:`Columns`."""
        figures = dict(figures)
        figures["energy_j"] = figures.pop("compute_j") + figures.pop("network_j") + figures.pop("sum_j")
        figures["port_s"] = figures["port_s"] + figures.pop("sum_port_s")
        compared = self._is_separable(held.groups[0]) and not self.beaten
        kept = not_dominated(figures, candidates) if compared else candidates
        choice, place = np.nonzero(kept)
        if len(held.groups) > 1:  # one group after the other
            order = np.argsort(held.which[place], kind="stable")
            choice, place = choice[order], place[order]
        idle_w = np.array([self.idle_w[list(group.devices)].sum() for group in held.groups])
        part: Part = {
            name: picked(values, choice, place) for name, values in figures.items() if not name.startswith(TELLING)
        }
        for name in ("least_in_flight", "most_in_flight"):
            part[name] = part[name].astype(np.int64)
        for name in ("battery_j", "over_bytes"):
            numbered = [part.pop(each) for each in figures if each.startswith(f"{name} ")]
            part[name] = np.stack(numbered, axis=1) if numbered else np.zeros((len(choice), 0))
        part |= {
            "micro_batch": np.full(len(choice), held.micro_batch),
            "token_groups": np.full(len(choice), held.token_groups),
            "first": held.first[place],
            "stop": held.stop[place],
            "hosts": np.full(len(choice), held.hosts),
            "choice": held.which[place] * len(held.shares) + choice,
            "code": held.code[place],
            "copies": np.full(len(choice), held.size if held.parts else 1),
            "idle_w": idle_w[held.which[place]],
        }
        return part

    def _is_separable(self, group: Group) -> bool:
        """Whether what a hand-over costs is a part of the group's own and a part of its partner's.

        Then the order of replicas does not matter, and share vectors can be compared by their own figures. It is so
        for devices of one domain, which reach all others in the same way, unless each pair has a link of its own.
        """
        ids = [self.cluster.devices[d].id for d in group.devices]
        if len(ids) == 1:
            return True
        return len({self.network.home(name).id for name in ids}) == 1 and bool(self.network.own_hops(ids[0]))

    def _may_matter(self, micro_batch: int, token_groups: int, groups: Sequence[Group]) -> NDArray[np.bool_]:
        """Layer ranges that may matter on each group, however samples are shared out on it."""
        shape = len(groups), len(self.first)
        if self.screen is _everything:
            return np.ones(shape, dtype=bool)
        code = np.repeat([group.code for group in groups], len(self.first))
        first, stop = np.tile(self.first, len(groups)), np.tile(self.stop, len(groups))
        rest, group_only = self.problem.completion, self.problem.fleet.codes - 1 - code
        both_s = micro_batch * (rest.path_s[group_only, stop] - rest.path_s[group_only, first])
        energy_j = self.workload.batch * (rest.energy_j[group_only, stop] - rest.energy_j[group_only, first])
        own_s = rest.decode_s[token_groups]
        decode_s = own_s[group_only, stop] - own_s[group_only, first]
        asked = Considered(micro_batch, token_groups, code, first, stop, both_s, decode_s, energy_j)
        return self.screen(asked).reshape(shape)
