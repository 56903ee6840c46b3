"""Figures of pairs of choices against the hand-overs of the plans they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Dice, default_space, examples, questions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.hand_overs import HandOvers
from dora_nb.formulation.problem import Problem

ANY_NETWORK = questions(
    layers=(2, 3),
    batches=(2, 4, 6),
    device_count=(2, 5),
    tied=False,
    kinds=("shared", "switch", "links", "cell", "mixed"),
)


@settings(max_examples=examples(25), suppress_health_check=list(HealthCheck), deadline=None)
@given(ANY_NETWORK, st.integers(0, 10**6))
def test_pairs_are_those_of_the_network(question: tuple[Workload, Cluster], seed: int) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    columns = build_columns(problem, problem.space.most_replicas)
    dice, network, work = Dice(seed), problem.network, problem.workload
    size = int(dice.pick(columns.micro_batch))
    heads = np.flatnonzero((columns.first == 0) & (columns.stop == 1) & (columns.micro_batch == size))
    tails = np.flatnonzero((columns.first == 1) & (columns.stop == len(work.layers)) & (columns.micro_batch == size))
    used, available = problem.fleet.used, problem.fleet.available
    pairs = [(a, b) for a in heads for b in tails if (used[columns.code[a]] + used[columns.code[b]] <= available).all()]
    if not pairs:
        return
    pairs = [dice.pick(pairs) for _ in range(4)]
    ahead, behind = np.array(pairs).T
    hand_overs = HandOvers(problem, columns.choices)
    cut_bytes = work.cut_bytes(1)
    for _ in range(2):  # worked out, then looked up
        found = hand_overs.between(columns.choice[ahead], columns.choice[behind], np.full(len(pairs), cut_bytes))
        entering_s = hand_overs.entering_s(columns.choice[behind], np.full(len(pairs), cut_bytes))
    for index, (a, b) in enumerate(pairs):
        plan = decode(columns, [a, b], (1, 1), problem)
        sent, received = (
            {replica.device: replica.samples * cut_bytes for replica in stage.replicas} for stage in plan.stages
        )
        there, back = network.hand_over(sent, received), network.hand_over(received, sent)
        assert found.there_s[index] == pytest.approx(there.duration_s)
        assert found.back_s[index] == pytest.approx(back.duration_s)
        directions = [there, back] if work.trains else [there]
        for place, name in enumerate(network.contended):
            held_s = sum(hold.seconds.get(name, 0.0) for hold in directions)
            assert found.air_s[index, place] == pytest.approx(held_s, abs=1e-12)
            assert entering_s[index, place] <= held_s * (1 + 1e-9) + 1e-12
        extra_j = sum(hold.energy_j - problem.byte_j * hold.size_bytes for hold in directions)
        assert found.extra_j[index] == pytest.approx(extra_j, abs=1e-9)
        # What each column decides alone is less, in both directions.
        own_s = max(columns.send_s[a], columns.receive_s[b])
        for hold in (there, back):
            assert own_s <= max(hold.seconds.values()) * (1 + 1e-9)
            assert problem.message_s <= hold.duration_s - max(hold.seconds.values()) + 1e-9
