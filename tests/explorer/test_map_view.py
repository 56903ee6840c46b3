"""The map of a network: its figures are the prediction's, and it says who uses what."""

from __future__ import annotations

import json

import pytest
from builders import Dice, cluster, device, pipeline, workload
from worlds import random_case, scheduled

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.explorer.html.map import map_html
from dora_nb.explorer.views.map import DeviceCard, MapView, map_view


def card(view: MapView, name: str) -> DeviceCard:
    return next(each for each in view.devices if each.id == name)


def used_wires(view: MapView) -> set[tuple[str, str]]:
    return {(wire.member, wire.domain) for wire in view.wires if wire.used}


@pytest.fixture(scope="module")
def work() -> Workload:
    return workload(4)


@pytest.fixture(scope="module")
def place() -> Cluster:
    return cluster(3)


@pytest.fixture(scope="module")
def plan(work: Workload, place: Cluster) -> Plan:
    """Two micro-batches of two samples, stage 0 on a, stage 1 on b; c is left out."""
    return scheduled(work, place, pipeline((0, 3, {"a": 2}), (3, 4, {"b": 2}), micro_batches=2))


def test_the_figures_of_a_device_are_those_predicted(work: Workload, place: Cluster, plan: Plan) -> None:
    view = map_view(place, work, plan)
    assert plan.prediction is not None
    for each in plan.prediction.devices:
        gauges = {gauge.name: gauge.share for gauge in card(view, each.device).gauges}
        assert gauges == {
            "memory": pytest.approx(each.memory_bytes / each.usable_memory_bytes),
            "load": pytest.approx(each.busy_s / plan.prediction.makespan_s),
            "energy": pytest.approx(each.energy_j / plan.prediction.energy_participating_j),
        }


def test_who_runs_what(work: Workload, place: Cluster, plan: Plan) -> None:
    view = map_view(place, work, plan)
    assert (card(view, "a").work, card(view, "a").samples, card(view, "a").used) == ("l0-2", "stage 0", True)
    assert (card(view, "b").work, card(view, "b").samples) == ("l3", "stage 1")
    assert (card(view, "c").work, card(view, "c").used, card(view, "c").gauges) == ("not in this plan", False, ())


def test_replicas_say_their_samples() -> None:
    work, place = workload(2), cluster(2)
    view = map_view(place, work, scheduled(work, place, pipeline((0, 2, {"a": 3, "b": 1}))))
    assert card(view, "a").samples == "3 of 4 samples"
    assert card(view, "b").samples == "1 of 4 samples"


def test_a_hosted_first_layer_is_said_where_it_runs() -> None:
    work, place = load_workload("qwen3-0.6b", mode="training", batch=1), load_cluster("smart-home")
    hosted = pipeline((1, 29, {"phone": 1}), (29, 30, {"laptop": 1}), tied="hosted")
    view = map_view(place, work, hosted)
    assert card(view, "laptop").work == "embedding, head"
    assert card(view, "laptop").gauges == ()  # not evaluated


def test_airtime_is_the_predicted_one(work: Workload, place: Cluster, plan: Plan) -> None:
    (bar,) = map_view(place, work, plan).domains
    assert plan.prediction is not None
    assert bar.airtime is not None
    assert bar.airtime.share == pytest.approx(plan.prediction.airtime_s / plan.prediction.makespan_s)
    assert bar.lines[0].startswith("net: one airtime for everybody")


@pytest.mark.parametrize("seed", range(40))
def test_random_plans_on_random_networks(seed: int) -> None:
    """The busiest of all resources is what the evaluation says, and a line is used if and only if its domain is."""
    work, place, plan = random_case(Dice(seed))
    view = map_view(place, work, plan, accounting="all-on")
    assert plan.prediction is not None
    busiest_s = (
        max((bar.airtime.share for bar in view.domains if bar.airtime), default=0.0) * plan.prediction.makespan_s
    )
    assert busiest_s == pytest.approx(plan.prediction.airtime_s)
    assert {bar.id for bar in view.domains if bar.used} == {domain for _, domain in used_wires(view)}
    assert set(view.wide.places) == set(view.narrow.places) == {each.id for each in (*place.devices, *place.domains)}
    assert MapView(**json.loads(json.dumps(view.model_dump(mode="json")))) == view
    map_html(view)


def test_a_stream_is_busy_as_a_share_of_the_time_between_requests() -> None:
    work = workload(2, mode="stream", requests_per_s=0.05, batch=1)
    place = cluster(1)
    plan = scheduled(work, place, pipeline((0, 2, {"a": 1})))
    load = next(gauge for gauge in card(map_view(place, work, plan), "a").gauges if gauge.name == "load")
    assert plan.prediction is not None
    assert load.share == pytest.approx(plan.prediction.devices[0].busy_s * 0.05)


def test_idle_devices_count_only_where_they_are_counted(work: Workload, place: Cluster, plan: Plan) -> None:
    assert card(map_view(place, work, plan), "c").gauges == ()
    (energy,) = card(map_view(place, work, plan, accounting="all-on"), "c").gauges
    assert energy.name == "energy"
    assert energy.share > 0


def test_lines_in_use_lie_between_those_who_talk() -> None:
    leaves = [device(name) for name in "abcd"]
    inner = ContentionDomain(id="inner", kind="shared", rates_bytes_per_s={"c": 1e6, "d": 1e6})
    outer = ContentionDomain(id="outer", kind="switch", rates_bytes_per_s={"a": 1e6, "b": 1e6, "inner": 1e6})
    place = Cluster(name="tree", devices=tuple(leaves), domains=(outer, inner))
    work = workload(2, mode="inference", input_bytes=1000)

    def used(*stages: tuple[int, int, dict[str, int]], **ends: str) -> set[tuple[str, str]]:
        request = work.replace(**ends)
        return used_wires(map_view(place, request, scheduled(request, place, pipeline(*stages))))

    assert used((0, 2, {"a": 4})) == set()
    assert used((0, 2, {"a": 2, "b": 2})) == set()  # replicas that do not train have nothing to say
    assert used((0, 1, {"a": 4}), (1, 2, {"b": 4})) == {("a", "outer"), ("b", "outer")}
    assert used((0, 1, {"c": 4}), (1, 2, {"d": 4})) == {("c", "inner"), ("d", "inner")}
    assert used((0, 1, {"a": 4}), (1, 2, {"d": 4})) == {("a", "outer"), ("inner", "outer"), ("d", "inner")}
    given = used((0, 2, {"a": 4}), source="c")
    assert given == {("c", "inner"), ("inner", "outer"), ("a", "outer")}


def test_sources_and_sinks_are_named() -> None:
    place, work = cluster(2), workload(2, mode="inference", source="b", sink="b", input_bytes=10, output_bytes=10)
    view = map_view(place, work, scheduled(work, place, pipeline((0, 2, {"a": 4}))))
    assert {"gives the inputs", "takes the outputs"} <= set(card(view, "b").lines)


def test_devices_switched_off(work: Workload, place: Cluster, plan: Plan) -> None:
    view = map_view(place, work, plan, switched_off=["c"])
    assert view.switched_off == ("c",)
    assert card(view, "c").work == "switched off"
    assert "text-decoration" in map_html(view)
    with pytest.raises(UnknownNameError, match="switched_off"):
        map_view(place, switched_off=["nobody"])


def test_without_a_plan_it_shows_what_there_is(place: Cluster) -> None:
    view = map_view(place)
    assert all(not each.gauges and not each.used for each in view.devices)
    assert used_wires(view) == set()
    assert view.summary == "No plan is shown."
    assert "draws 1 W idle, 3 W computing" in view.devices[0].lines


def test_what_does_not_fit_is_refused(work: Workload, place: Cluster, plan: Plan) -> None:
    with pytest.raises(InputError, match="workload"):
        map_view(place, None, plan)
    with pytest.raises(UnknownNameError, match=r"plan\.devices"):
        map_view(place.without(["b"]), work, plan)


def test_text_is_escaped_and_kept_on_a_line() -> None:
    nasty = "<b>\n&"
    place = cluster([device(nasty), device("b")])
    html = map_html(map_view(place))
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
