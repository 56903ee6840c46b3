"""Rows that the seconds of a pipeline's stages meet if it keeps a makespan, for a given number of stages.

Every path through the operations of a pipeline takes as long as the operations on it, so none is longer than the
makespan. With n forward and m backward passes of a stage on it, that stage adds ``n f + m b``, f and b the two parts of
its seconds t: at least t times the less of ``n p + m (1 - p)`` at the least and the largest forward share p. Each
crossing of a cut adds at least the shortest hand-over. So a path is a row ``weights x seconds + hand-overs <=
makespan``. Paths are found as the longest ones of random seconds: any path gives a row that holds, so none need be
complete.

In 1F1B, a stage with k micro-batches in flight runs forward pass m after its own backward pass m - k, and backward pass
m after its own forward pass m + k - 1 (or the last).

All longer pipelines are looked at together: those of more than R stages are the last R and, in front of them, some
others, the slowest of which takes t for one micro-batch and all of which take Q together, hand-overs included. Leaving
the others out shortens no path but those through them: a path that goes on behind the slowest crosses each of them at
least once each way, so ``Q - t`` is added to it. The slowest has at least as many micro-batches in flight as a stage
with R behind it; where these are not yet all, its forward passes are not held up by backward passes here.

Our own design.
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleets.group_times import GroupTimes

#: Random seconds whose longest paths are taken, for each stage.
DRAWN = 60


class Kind(NamedTuple):
    """Which pipelines.

    Attributes
    ----------
    depth
        A stage with r stages behind it holds ``1 + depth x r`` micro-batches, at most all.
    stages
        How many, or how many of the last ones are told apart.
    more
        Whether these are all pipelines of more stages than that.
    """

    depth: int
    stages: int
    more: bool

    def in_flight(self, micro_batches: int) -> tuple[int, ...]:
        """Of each stage told apart, first to last; the slowest of the others counts as one in front."""
        told = self.stages + self.more
        return tuple(min(micro_batches, 1 + self.depth * behind) for behind in range(told - 1, -1, -1))


@dataclass(frozen=True)
class PipelineRows:
    """Rows of one kind of pipelines.

    Attributes
    ----------
    weights
        Of each figure in each row, shape (rows, figures). Figures are the seconds of the stages, first to last; where
        there are more stages than told apart, these come behind Q and t of the others.
    hops_s
        Seconds of hand-overs on each path, at least. Shape (rows,).
    """

    weights: Floats
    hops_s: Floats

    @classmethod
    def of(cls, times: GroupTimes, kind: Kind, trains: bool) -> PipelineRows:
        """The rows of pipelines with such seconds of groups on ranges."""
        held = kind.in_flight(times.micro_batches)
        forwards, backwards, crossed = _paths(held, times.micro_batches, times.forward_share, trains, kind.more)
        weights = np.minimum(*(forwards * share + backwards * (1 - share) for share in times.forward_share))
        hops_s = crossed * (times.hop_s[1:-1].min() if len(times.hop_s) > 2 else 0.0)
        if kind.more:
            behind = (weights[:, 1:] > 0).any(axis=1).astype(float)
            weights = np.column_stack([behind, weights[:, 0] - behind, weights[:, 1:]])
        return cls(weights, hops_s)

    def least_s(self, figures_s: Floats) -> Floats:
        """A makespan that pipelines of at least such figures cannot be below, shape (pipelines,)."""
        return np.asarray((figures_s @ self.weights.T + self.hops_s).max(axis=-1))


def _paths(
    held: tuple[int, ...], batches: int, shares: tuple[float, float], trains: bool, loose: bool
) -> tuple[Floats, Floats, Floats]:
    """Unlike paths: forward and backward passes of each stage on them, shape (paths, stages), and cuts crossed."""
    stages = len(held)
    dice = np.random.default_rng(0)
    seconds = 0.2 + dice.exponential(1.0, (DRAWN * stages, stages))
    forward = np.mean(shares)
    done: dict[tuple[int, int, bool], Floats] = {}
    counts: dict[tuple[int, int, bool], Floats] = {}
    for each, before in _ordered(held, batches, trains, loose):
        stage, _, back = each
        start, count = np.zeros(len(seconds)), np.zeros((len(seconds), 2 * stages + 1))
        for other in before:
            later = done[other] > start
            start = np.where(later, done[other], start)
            passed = counts[other] + np.eye(2 * stages + 1)[-1] * (other[0] != stage)
            count = np.where(later[:, None], passed, count)
        count[:, stage + stages * back] += 1
        done[each], counts[each] = start + seconds[:, stage] * (1 - forward if back else forward), count
    ends = [each for each in done if each[1] == batches - 1 and each[2] == trains]
    last = np.argmax([done[each] for each in ends], axis=0)
    found = np.unique(np.array([counts[each] for each in ends])[last, np.arange(len(seconds))], axis=0)
    return found[:, :stages], found[:, stages:-1], found[:, -1]


def _ordered(
    held: tuple[int, ...], batches: int, trains: bool, loose: bool
) -> list[tuple[tuple[int, int, bool], list[tuple[int, int, bool]]]]:
    """Operations (stage, micro-batch, whether backward), and what each comes after, in an order that keeps to that."""
    before: dict[tuple[int, int, bool], list[tuple[int, int, bool]]] = {}
    for stage, most in enumerate(held):
        for batch in range(batches):
            forward = before.setdefault((stage, batch, False), [])
            forward += [(stage - 1, batch, False)] if stage else []
            forward += [(stage, batch - 1, False)] if batch else []
            if not trains:
                continue
            forward += [(stage, batch - most, True)] if batch >= most and not (loose and stage == 0) else []
            backward = before.setdefault((stage, batch, True), [])
            backward += [(stage + 1, batch, True)] if stage + 1 < len(held) else []
            backward += [(stage, batch - 1, True)] if batch else []
            backward += [(stage, min(batch + most, batches) - 1, False)]
    return [(each, before[each]) for each in TopologicalSorter(before).static_order()]
