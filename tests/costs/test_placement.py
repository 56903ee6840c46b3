"""What a placement takes, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dora_nb.costs.placement import evaluate_placement
from dora_nb.domain.placement import PlacedStage
from dora_nb.domain.problem import DeviceType, Execution, MeasuredLayer, MeasuredProblem, Medium, Tensor, Way
from dora_nb.errors import InputError


def problem(**changes: Any) -> MeasuredProblem:
    """Three layers: the first is used by both others, the last also uses the second; one input, one output."""
    fields: dict[str, Any] = {
        "name": "hand",
        "layers": [
            MeasuredLayer(name="a", time_s={"p": 4, "q": 2}, memory_bytes=10, parameter_bytes=60),
            MeasuredLayer(name="b", time_s={"p": 6, "q": 3}, memory_bytes=20, in_flight_bytes=5),
            MeasuredLayer(
                name="c",
                time_s={"p": 8, "q": 4},
                memory_bytes=30,
                alternatives=[Way(way="again", time_s={"q": 9}, memory_bytes=3, more_bytes={"b": 12})],
            ),
        ],
        "tensors": [
            Tensor(consumers=["a"], bytes=1),
            Tensor(producer="a", consumers=["b", "c"], bytes=12),
            Tensor(producer="b", consumers=["c"], bytes=24, transfer_s=0.5),
            Tensor(producer="c", bytes=7),
        ],
        "devices": [
            DeviceType(type="p", count=2, memory_bytes=100, bytes_per_s=12),
            DeviceType(type="q", count=4, bytes_per_s=6),
        ],
    }
    return MeasuredProblem(**(fields | changes))


def stage(layers: str, device: str, **fields: Any) -> PlacedStage:
    return PlacedStage(layers=tuple(layers), device=device, **fields)


def test_a_tensor_that_two_layers_use_enters_their_stage_once() -> None:
    found = evaluate_placement(problem(), [stage("a", "p"), stage("bc", "q")])
    assert [load.send_s for load in found.loads] == [1.0, 0.0]
    assert [load.receive_s for load in found.loads] == [0.0, 2.0]
    assert [load.stage_s for load in found.loads] == [5.0, 9.0]
    assert found.value_s == 9.0
    assert not found.broken


def test_a_tensor_that_two_stages_use_leaves_once_and_enters_each() -> None:
    found = evaluate_placement(problem(), [stage("a", "p"), stage("b", "p"), stage("c", "q")])
    assert [load.send_s for load in found.loads] == [1.0, 2.5, 0.0]
    assert [load.receive_s for load in found.loads] == [0.0, 1.0, 2.0 + 4.5]


@pytest.mark.parametrize(("overlap", "second"), [("none", 9.5), ("half-duplex", 6.0), ("duplex", 6.0)])
def test_what_overlaps_is_not_added(overlap: str, second: float) -> None:
    execution = Execution(overlap=overlap, crossings=1)
    found = evaluate_placement(problem(execution=execution), [stage("a", "p"), stage("b", "p"), stage("c", "q")])
    assert found.loads[1].stage_s == second
    assert found.loads[2].stage_s == (10.5 if overlap == "none" else 6.5)


def test_who_pays_and_the_first_stage() -> None:
    stages = [stage("a", "p"), stage("bc", "q")]
    pays = {"sender": (1.0, 0.0), "receiver": (0.0, 2.0), "both-ends": (1.0, 2.0)}
    for transfers, (sends, receives) in pays.items():
        found = evaluate_placement(problem(execution=Execution(transfers=transfers)), stages)
        assert (found.loads[0].send_s, found.loads[1].receive_s) == (sends, receives)
    free = evaluate_placement(problem(execution=Execution(first_stage_sends=False, crossings=2)), stages)
    assert (free.loads[0].send_s, free.loads[1].receive_s) == (0.0, 4.0)


def test_links_carry_what_is_needed_behind_them() -> None:
    tensors = [tensor.replace(transfer_s=0.0) for tensor in problem().tensors]
    links = problem(tensors=tensors, execution=Execution(transfers="link", overlap="duplex"))
    found = evaluate_placement(links, [stage("a", "p"), stage("b", "p"), stage("c", "q")])
    assert [load.link_s for load in found.loads] == [12 / 12, (12 + 24) / 6, 0.0]
    assert found.value_s == 6.0
    serial = evaluate_placement(
        problem(tensors=tensors, execution=Execution(transfers="link", objective="latency")),
        [stage("a", "p"), stage("b", "p"), stage("c", "q")],
    )
    assert serial.value_s == 4 + 1 + 6 + 6 + 4


def test_replicas_share_computing_and_sum_gradients() -> None:
    stages = [stage("a", "q", replicas=4), stage("bc", "p")]
    stream = Execution(most_replicas=None, all_reduce_passes=4)
    found = evaluate_placement(problem(execution=stream), stages)
    assert found.loads[0].compute_s == 0.5
    assert found.loads[0].all_reduce_s == 4 * 3 / 4 * 60 / 6 / 4
    assert found.loads[0].send_s == 2 / 4
    iterations = Execution(most_replicas=None, micro_batches=8, all_reduce_passes=2)
    found = evaluate_placement(problem(execution=iterations), stages)
    assert found.loads[0].all_reduce_s == 2 * 3 / 4 * 60 / 6 / 8
    assert not found.broken


def test_memory_counts_what_is_in_flight_and_buffers() -> None:
    rules = Execution(most_replicas=None, in_flight="pipeline", input_copies=1, receive_copies=2, output_copies=3)
    stages = [stage("a", "q", replicas=2), stage("b", "p", replicas=2), stage("c", "q")]
    found = evaluate_placement(problem(execution=rules), stages)
    assert found.loads[0].memory_bytes == 10 + 1 * 1 + 3 * 12
    assert found.loads[1].memory_bytes == 20 + 2 * 5 + 3 * 12 + 3 * 24  # ceil(3 / 2) in flight
    assert found.loads[2].memory_bytes == 30 + 3 * (12 + 24) + 3 * 7
    assert found.broken == ("stage 1 needs 138 bytes, p has 100",)


def test_ways_change_time_memory_and_bytes() -> None:
    stages = [stage("ab", "p"), stage("c", "q", ways={"c": "again"})]
    found = evaluate_placement(problem(), stages)
    assert found.loads[1].compute_s == 9.0
    assert found.loads[1].memory_bytes == 3.0
    assert found.loads[1].receive_s == 12 / 6 + 0.5 + (24 + 12) / 6
    assert found.loads[0].send_s == 12 / 12 + 0.5 + 24 / 12  # what a way adds counts at its own end


def test_a_medium_is_held_by_both_ends() -> None:
    shared = problem(
        media=[Medium(name="wifi", bytes_per_s={"p": 2, "q": 3}), Medium(name="cable", bytes_per_s={"p": 1})],
        layers=[layer.replace(alternatives=()) for layer in problem().layers],
    )
    found = evaluate_placement(shared, [stage("a", "p"), stage("bc", "q")])
    assert [load.media_s for load in found.loads] == [{"wifi": 6.0, "cable": 12.0}, {"wifi": 4.0, "cable": 0.0}]
    assert found.value_s == 12.0


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([stage("ab", "p"), stage("bc", "q")], "layer b is in two stages"),
        ([stage("b", "p"), stage("ac", "q")], "goes back from a to b"),
        ([stage("a", "p"), stage("b", "p"), stage("c", "p")], "3 devices of type p, there are 2"),
        ([stage("abc", "q", replicas=2)], "stage 0 has 2 replicas"),
    ],
)
def test_what_is_broken_is_said(stages: list[PlacedStage], words: str) -> None:
    assert any(words in each for each in evaluate_placement(problem(), stages).broken)


def test_micro_batches_bound_replicas_and_groups_stay_together() -> None:
    rules = Execution(most_replicas=None, micro_batches=3)
    broken = evaluate_placement(
        problem(execution=rules), [stage("a", "p", replicas=2), stage("bc", "q", replicas=3)]
    ).broken
    assert "2 replicas of stage 0 do not divide the micro-batches" in broken
    assert "more replicas than micro-batches" in broken
    grouped = problem(layers=[layer.replace(group="g") for layer in problem().layers])
    assert "group g is in two stages" in evaluate_placement(grouped, [stage("a", "p"), stage("bc", "q")]).broken


@pytest.mark.parametrize(
    ("stages", "field"),
    [
        ([stage("ab", "p")], "stages"),
        ([stage("abz", "p")], "layers"),
        ([stage("abc", "z")], "device"),
        ([stage("abc", "p", ways={"c": "again"})], "ways of layer c"),
    ],
)
def test_what_cannot_be_computed_is_refused(stages: list[PlacedStage], field: str) -> None:
    with pytest.raises(InputError, match=field):
        evaluate_placement(problem(), stages)
