"""Placements of problems in own numbers: against every placement there is, against known figures, and its errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dora_nb.catalog import data_dir
from dora_nb.cli import app
from dora_nb.costs.placement import evaluate_placement
from dora_nb.domain.placement import PlacedStage, Placement
from dora_nb.domain.problem import DeviceType, Execution, MeasuredLayer, MeasuredProblem, Medium, Tensor, Way
from dora_nb.domain.problem_file import load_problem
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError
from dora_nb.planning.placement import place as placing
from dora_nb.planning.placement import rearrange
from dora_nb.planning.placement.place import place
from tests.builders import examples

SEEDS = st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------------- every placement there is


def divisions(layers: list[str]) -> Iterator[list[list[str]]]:
    """Every way to divide layers into stages, in every order."""
    for homes in itertools.product(range(len(layers)), repeat=len(layers)):
        stages = sorted(set(homes))
        if stages == list(range(len(stages))):
            yield [[name for name, home in zip(layers, homes, strict=True) if home == stage] for stage in stages]


def stages_of(problem: MeasuredProblem, layers: list[str]) -> Iterator[PlacedStage]:
    """Every stage of some layers."""
    for device in problem.devices:
        shards = {way.shards for layer in problem.layers for way in layer.ways}
        for shard, replicas in itertools.product(shards, range(1, device.count + 1)):
            if replicas * shard > device.count:
                continue
            ways = [
                [
                    way.way
                    for way in problem.layers[problem.layer_index[name]].ways
                    if way.shards == shard and device.type in way.time_s
                ]
                for name in layers
            ]
            for chosen in itertools.product(*ways):
                named = {
                    name: way
                    for name, way in zip(layers, chosen, strict=True)
                    if way != problem.layers[problem.layer_index[name]].way
                }
                yield PlacedStage(layers=tuple(layers), device=device.type, replicas=replicas, shards=shard, ways=named)


def best_value(problem: MeasuredProblem) -> float:
    """The least value of any placement that breaks nothing; infinite if all do."""
    best = float("inf")
    counts = [(device.type, device.count) for device in problem.devices]
    order = {"contiguous": True, "any": False}[problem.execution.stages]
    for parts in divisions([layer.name for layer in problem.layers]):
        if not order and parts != sorted(parts):
            continue  # devices have no order
        for stages in itertools.product(*(list(stages_of(problem, part)) for part in parts)):
            if any(
                sum(each.replicas * each.shards for each in stages if each.device == name) > most
                for name, most in counts
            ):
                continue  # the evaluation would say so too, in a hundred times as long
            found = evaluate_placement(problem, stages)
            if not found.broken:
                best = min(best, found.value_s)
    return best


def check(problem: MeasuredProblem, exact: bool = True, **options: Any) -> Placement | None:
    """Our answer is the best there is, its bound is one, and it is the same when asked again."""
    best = best_value(problem)
    try:
        answer = place(problem, solver="highs", **options)
    except InfeasibleError:
        assert best == float("inf")
        return None
    assert answer.value_s >= best * (1 - 1e-9)
    assert answer.bound_s <= best * (1 + 1e-9)
    if exact:
        assert answer.value_s == pytest.approx(best, rel=1e-7)
    evaluation = evaluate_placement(problem, answer.stages)
    assert not evaluation.broken
    assert evaluation.value_s == answer.value_s
    assert answer.replace(wall_s=0.0) == place(problem, solver="highs", **options).replace(wall_s=0.0)
    return answer


# ---------------------------------------------------------------------- random problems


def chain_tensors(dice: random.Random, count: int) -> list[Tensor]:
    return [
        Tensor(
            producer=f"l{index}", consumers=(f"l{index + 1}",) if index + 1 < count else (), bytes=dice.randint(0, 9)
        )
        for index in range(count)
    ]


def graph_tensors(dice: random.Random, count: int, backward: set[int] = frozenset()) -> list[Tensor]:  # type: ignore[assignment]
    """Tensors that several layers use, along the order of layers; two of one producer here and there."""
    found = []
    for index in range(count):
        for _ in range(dice.choice((0, 1, 1, 2))):
            later = [other for other in range(index + 1, count) if not (index in backward and other not in backward)]
            users = sorted(dice.sample(later, min(len(later), dice.randint(1, 3))))
            if users:
                names = tuple(f"l{user}" for user in users)
                found.append(
                    Tensor(
                        producer=f"l{index}",
                        consumers=names,
                        bytes=dice.randint(0, 6),
                        transfer_s=dice.choice((0, 0, 0.5)),
                    )
                )
    return found


def layers_of(dice: random.Random, count: int, types: list[str], **fields: Any) -> list[MeasuredLayer]:
    found = []
    for index in range(count):
        able = [name for name in types if dice.random() < 0.9] or types[:1]
        times = {name: float(dice.randint(0, 8)) for name in able}
        more = {key: value(dice) if callable(value) else value for key, value in fields.items()}
        found.append(MeasuredLayer(name=f"l{index}", time_s=times, memory_bytes=dice.randint(0, 5), **more))
    return found


def rules(dice: random.Random, **fields: Any) -> Execution:
    chosen: dict[str, Any] = {
        "overlap": dice.choice(("none", "half-duplex", "duplex")),
        "transfers": dice.choice(("both-ends", "sender", "receiver")),
        "crossings": dice.choice((1, 2)),
        "first_stage_sends": dice.random() < 0.7,
        "input_copies": dice.choice((0, 1)),
        "receive_copies": dice.choice((0, 1)),
        "output_copies": dice.choice((0, 2)),
    }
    return Execution(**(chosen | fields))


def unlike(dice: random.Random, count: int, rates: bool = True) -> list[DeviceType]:
    return [
        DeviceType(
            type=f"d{index}",
            count=dice.choice((1, 1, 2)),
            memory_bytes=dice.choice((None, 8, 14, 20)),
            bytes_per_s=dice.choice((1.0, 2.0, 4.0)) if rates or dice.random() < 0.7 else None,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("objective", ["period", "latency"])
@settings(max_examples=examples(12))
@given(seed=SEEDS)
def test_unlike_devices_in_any_order_over_links(objective: Any, seed: int) -> None:
    dice = random.Random(seed)
    devices = unlike(dice, dice.randint(1, 3))
    layers = layers_of(dice, dice.randint(2, 4 if len(devices) < 3 else 3), [device.type for device in devices])
    tensors = [Tensor(consumers=("l0",), bytes=dice.randint(0, 5)), *chain_tensors(dice, len(layers))]
    execution = rules(dice, transfers="link", objective=objective)
    check(MeasuredProblem(name="links", layers=layers, tensors=tensors, devices=devices, execution=execution))


@settings(max_examples=examples(12))
@given(SEEDS)
def test_replicas_of_equal_devices_with_gradients_to_sum(seed: int) -> None:
    dice = random.Random(seed)
    devices = [DeviceType(type="d", count=dice.randint(1, 4), bytes_per_s=dice.choice((1.0, 3.0, 10.0)))]
    layers = layers_of(dice, dice.randint(2, 4), ["d"], parameter_bytes=lambda dice: dice.randint(0, 9))
    execution = rules(
        dice,
        most_replicas=dice.choice((None, 2)),
        micro_batches=dice.choice((None, 4)),
        all_reduce_passes=dice.choice((2, 4)),
    )
    tensors = chain_tensors(dice, len(layers))
    check(MeasuredProblem(name="replicas", layers=layers, tensors=tensors, devices=devices, execution=execution))


@pytest.mark.parametrize("objective", ["period", "latency"])
@settings(max_examples=examples(12))
@given(seed=SEEDS)
def test_graphs_on_processors_and_accelerators(objective: Any, seed: int) -> None:
    dice = random.Random(seed)
    devices = unlike(dice, dice.randint(1, 2), rates=False)
    layers = layers_of(dice, dice.randint(2, 5 if len(devices) == 1 else 4), [device.type for device in devices])
    tensors = graph_tensors(dice, len(layers))
    execution = rules(dice, objective=objective)
    check(MeasuredProblem(name="graph", layers=layers, tensors=tensors, devices=devices, execution=execution))


@settings(max_examples=examples(12))
@example(7)  # groups that wait for each other
@given(SEEDS)
def test_backward_layers_share_the_device_of_their_group(seed: int) -> None:
    """Backward layers of no group with a forward one are bound to an order of ours: then only the bound must hold."""
    dice = random.Random(seed)
    devices = unlike(dice, 2, rates=False)
    forward = dice.randint(1, 3)
    count = forward + dice.randint(0, 4 - forward)
    layers = [
        layer.replace(group=dice.choice(("a", "b", "c", None)), backward=index >= forward)
        for index, layer in enumerate(layers_of(dice, count, [device.type for device in devices]))
    ]
    grouped = {layer.group for layer in layers if not layer.backward and layer.group}
    orphans = any(layer.backward and layer.group not in grouped for layer in layers)
    tensors = graph_tensors(dice, count, set(range(forward, count)))
    execution = rules(dice, first_stage_sends=True)
    problem = MeasuredProblem(name="training", layers=layers, tensors=tensors, devices=devices, execution=execution)
    if not orphans:
        check(problem)
        return
    try:
        answer = place(problem)
    except InfeasibleError:
        return
    assert answer.value_s >= best_value(problem) * (1 - 1e-9)


@settings(max_examples=examples(12))
@given(SEEDS)
def test_ways_shards_and_micro_batches_in_flight(seed: int) -> None:
    dice = random.Random(seed)
    count = dice.randint(2, 3)
    names = [f"l{index}" for index in range(count)]
    sharded = dice.random() < 0.4

    execution = rules(dice, most_replicas=None, micro_batches=dice.choice((2, 4, 6)), in_flight="pipeline")
    added = {
        (index, shards, mode): {
            names[index + step]: dice.choice((0, 3)) for step in (-1, 1) if 0 <= index + step < count
        }
        for index in range(count)
        for shards in (1, 2)
        for mode in ("kept", "again")
    }
    # What runs beside computing is least for ways that need not be the fastest: there all ways add the same.
    apart = execution.overlap == "none"

    def way(shards: int, name: str, index: int) -> dict[str, Any]:
        return {
            "way": name,
            "shards": shards,
            "time_s": {"d": float(dice.randint(1, 9))},
            "memory_bytes": dice.randint(0, 5),
            "in_flight_bytes": dice.randint(0, 4),
            "more_bytes": added[index, shards, name if apart else "kept"],
        }

    layers = []
    for index, name in enumerate(names):
        first, *others = [
            way(shards, mode, index)
            for shards in ((1, 2) if sharded else (1,))
            for mode in ("kept", "again")
            if mode == "kept" or dice.random() < 0.7
        ]
        same = dice.randint(0, 9)  # all ways have the same parameters
        layers.append(
            MeasuredLayer(
                name=name,
                parameter_bytes=same,
                alternatives=[Way(parameter_bytes=same, **each) for each in others],
                **first,
            )
        )
    memory_bytes = dice.choice((6, 12, 24, None))
    devices = [DeviceType(type="d", count=dice.randint(1, 4), memory_bytes=memory_bytes, bytes_per_s=5.0)]
    problem = MeasuredProblem(
        name="ways", layers=layers, tensors=chain_tensors(dice, count), devices=devices, execution=execution
    )
    check(problem)


@settings(max_examples=examples(12))
@example(38)  # two media, neither of which is below its limit for long
@given(SEEDS)
def test_media_that_devices_share(seed: int) -> None:
    """One medium is solved exactly; with several the bound holds and the gap says what is open."""
    dice = random.Random(seed)
    devices = unlike(dice, 2, rates=False)
    layers = layers_of(dice, dice.randint(2, 4), [device.type for device in devices])
    media = [
        Medium(name=name, bytes_per_s={device.type: dice.choice((1.0, 3.0)) for device in members})
        for name, members in [("wifi", devices), ("cable", devices[:1])][: dice.choice((1, 2))]
    ]
    tensors = chain_tensors(dice, len(layers)) if dice.random() < 0.5 else graph_tensors(dice, len(layers))
    problem = MeasuredProblem(
        name="medium", layers=layers, tensors=tensors, devices=devices, media=media, execution=rules(dice)
    )
    check(problem, exact=len(media) == 1)


def any_sets(seed: int) -> MeasuredProblem:
    """Some layers with groups and backward layers on one or two types of devices, in any sets."""
    dice = random.Random(seed)
    devices = unlike(dice, dice.randint(1, 2), rates=False)
    count = dice.randint(2, 5)
    layers = [
        layer.replace(group=dice.choice(("a", None, None)), backward=dice.random() < 0.2)
        for layer in layers_of(dice, count, [device.type for device in devices])
    ]
    layers = sorted(layers, key=lambda layer: layer.backward)
    layers = [layer.replace(name=f"l{index}") for index, layer in enumerate(layers)]
    back = {index for index, layer in enumerate(layers) if layer.backward}
    execution = Execution(
        stages="any", overlap=dice.choice(("none", "half-duplex", "duplex")), crossings=dice.choice((1, 2))
    )
    tensors = graph_tensors(dice, count, back)
    return MeasuredProblem(name="any", layers=layers, tensors=tensors, devices=devices, execution=execution)


@settings(max_examples=examples(12))
@example(3)
@example(11)
@given(SEEDS)
def test_any_sets_of_layers(seed: int) -> None:
    answer = check(any_sets(seed), exact=False)
    if answer is not None:
        assert answer.value_s <= best_value(any_sets(seed)) * (1 + 1.1e-4)
        assert answer.gap <= 1e-4 + 1e-12 or answer.status != "optimal"


@pytest.mark.parametrize("seed", [0, 1, 3, 5, 8, 11])
def test_the_program_alone_finds_the_best_sets(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where moving layers between devices found nothing that fits."""
    problem = any_sets(seed)
    monkeypatch.setattr(rearrange, "_search", lambda *_: None)
    answer = check(problem, exact=False)
    assert (math.inf if answer is None else answer.value_s) == pytest.approx(best_value(problem), rel=1.1e-4)


def test_without_the_program_the_gap_is_what_bounds_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rearrange, "_MOST_VARIABLES", 0)
    for seed in range(6):
        answer = check(any_sets(seed), exact=False)
        assert answer is None or "program" not in answer.method
    monkeypatch.setattr(rearrange, "_search", lambda *_: None)
    with pytest.raises(InfeasibleError, match="give more time"):
        place(any_sets(3))


# ---------------------------------------------------------------------- larger ones, and the answer in words


def long_chain(devices: int, layers: int) -> MeasuredProblem:
    dice = random.Random(devices)
    base = [dice.uniform(0.05, 0.4) for _ in range(layers)]
    types = {f"d{index}": dice.uniform(0.5, 3) for index in range(devices)}
    return MeasuredProblem(
        name="long",
        layers=[
            MeasuredLayer(
                name=f"l{index}", time_s={name: each * factor for name, factor in types.items()}, memory_bytes=1e7
            )
            for index, each in enumerate(base)
        ],
        tensors=chain_tensors(dice, layers),
        devices=[DeviceType(type=name, memory_bytes=1e9, bytes_per_s=dice.choice((20.0, 50.0))) for name in types],
        execution=Execution(transfers="link", overlap="duplex"),
    )


def test_twelve_unlike_devices_and_96_layers() -> None:
    answer = place(long_chain(12, 96))
    assert answer.status == "optimal"
    assert answer.gap <= 1e-9
    assert len({stage.device for stage in answer.stages}) == len(answer.stages)


def test_more_unlike_devices_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(InputError, match="fewer unlike devices"):
        place(long_chain(24, 40))


def test_a_graph_with_too_many_cuts_is_solved_along_orders() -> None:
    """Seventeen independent layers have 131,072 cuts; the answer says what was looked at and how far off it can be."""
    layers = [MeasuredLayer(name=f"l{index}", time_s={"d": 1.0 + index % 3}) for index in range(17)]
    answer = place(MeasuredProblem(name="wide", layers=layers, devices=[DeviceType(type="d", count=3)]))
    assert "several topological orders" in answer.scope
    assert answer.bound_s <= 33 / 3 + 1e-9 <= answer.value_s + 2e-9


def test_nothing_that_fits_is_an_error_that_says_what_there_is() -> None:
    layers = [MeasuredLayer(name="a", time_s={"d": 1.0}, memory_bytes=10)]
    devices = [DeviceType(type="d", memory_bytes=9)]
    for stages in ("contiguous", "any"):
        with pytest.raises(InfeasibleError, match="Give more memory"):
            place(MeasuredProblem(name="big", layers=layers, devices=devices, execution=Execution(stages=stages)))


def test_a_search_that_the_evaluation_contradicts_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another value than the search's, and all layers on a device whose memory two fill."""
    chain, search = long_chain(2, 3), placing.place_in_order
    problem = chain.replace(devices=tuple(each.replace(memory_bytes=2.5e7) for each in chain.devices))
    whole = (PlacedStage(layers=("l0", "l1", "l2"), device="d0"),)
    for change, words in (({"value_s": 1.0}, "the search says 1.0 s"), ({"stages": whole}, "that was found is none")):
        monkeypatch.setattr(
            placing, "place_in_order", lambda *given, change=change: dataclasses.replace(search(*given), **change)
        )
        with pytest.raises(ObjectiveMismatchError, match=words):
            place(problem)


def test_effort_is_checked() -> None:
    problem = long_chain(2, 3)
    for options, field in (
        ({"gap": 0.0}, "gap"),
        ({"time_limit_s": 0}, "time_limit_s"),
        ({"solver": "cplex"}, "solver"),
    ):
        with pytest.raises(InputError, match=field):
            place(problem, **options)


def test_the_command_places_a_problem_file(tmp_path: Path) -> None:
    example = data_dir() / "problems" / "vit-b-16-smart-home.json"
    ran = CliRunner().invoke(app, ["plan", "--problem", str(example), "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["value_s"] == pytest.approx(place(load_problem(example)).value_s)
    assert told["bound_s"] <= told["value_s"]
    assert [name for stage in told["stages"] for name in stage["layers"]][-1] == "head"
    words = CliRunner().invoke(app, ["plan", "--problem", str(example)]).stdout
    assert "gap 0.00 %" in words
    assert "phone: block" in words
    assert repr(place(load_problem(example))).splitlines()[0] in words


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--latency", "3 s"], "latency"), (["--cluster", "smart-home"], "cluster"), (["--gap", "2"], "gap")],
)
def test_options_that_do_not_go_with_a_problem_file_are_refused(options: list[str], words: str) -> None:
    example = str(data_dir() / "problems" / "vit-b-16-smart-home.json")
    ran = CliRunner().invoke(app, ["plan", "--problem", example, *options])
    assert ran.exit_code == 1
    assert words in ran.stderr


@settings(max_examples=examples(15))
@given(SEEDS)
def test_starting_along_orders_leads_to_the_same_optimum(seed: int) -> None:
    """Larger graphs are first solved along a few orders, whose value leaves out most cuts; small ones at once."""
    dice = random.Random(seed)
    devices = unlike(dice, 2, rates=False)
    layers = layers_of(dice, dice.randint(6, 9), [device.type for device in devices])
    tensors = graph_tensors(dice, len(layers))
    execution = rules(dice, objective=dice.choice(("period", "period", "latency")))
    problem = MeasuredProblem(name="graph", layers=layers, tensors=tensors, devices=devices, execution=execution)
    found = []
    for few in (10**6, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dora_nb.planning.placement.in_order._FEW_DOWNSETS", few)
            patch.setattr("dora_nb.planning.placement.downset_search._KEPT_DOWNSETS", few)
            try:
                found.append(place(problem).value_s)
            except InfeasibleError:
                found.append(None)
    assert found[0] == found[1]
