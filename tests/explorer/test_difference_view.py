"""Two plans side by side: who runs what, what has to move, and what changes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from builders import Dice, cluster, device, layer, pipeline, random_plan, workload
from worlds import random_case, scheduled

from dora_nb.costs.resident import held_units, unit_bytes
from dora_nb.costs.switching import switch
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.explorer.html.difference import difference_html
from dora_nb.explorer.views.cases import Case
from dora_nb.explorer.views.difference import DifferenceView, difference_view

MB = 1_000_000


def chain(**fields: object) -> Workload:
    """Four layers of 1 MB of parameters each."""
    return workload([layer(f"l{index}", parameters=MB // 4) for index in range(4)], **fields)


def case(work: Workload, place: Cluster, *stages: tuple[int, int, dict[str, int]], **options: int) -> Case:
    return Case(scheduled(work, place, pipeline(*stages, **options)), work, place)


@pytest.fixture(scope="module")
def moved() -> DifferenceView:
    """Layer 2 moves from a to b, twice as fast."""
    work, place = chain(mode="inference"), cluster([device("a"), device("b", 2e9)])
    return difference_view(
        case(work, place, (0, 3, {"a": 4}), (3, 4, {"b": 4})), case(work, place, (0, 2, {"a": 4}), (2, 4, {"b": 4}))
    )


def test_layers_that_moved(moved: DifferenceView) -> None:
    assert [(each.layers, each.moved, each.moved_bytes) for each in moved.ranges] == [
        ("l0-1", False, 0.0),
        ("l2", True, MB),
        ("l3", False, 0.0),
    ]
    assert [each.device for each in moved.ranges[1].before] == ["a"]
    assert [each.device for each in moved.ranges[1].after] == ["b"]
    assert "l2 moves from a to b." in moved.lines


def test_figures_before_after_and_change(moved: DifferenceView) -> None:
    latency = moved.figure("latency")
    # 12 s or 8 s on a, 2 s or 4 s on b, and 8 s for 4 MB that go up and down at 1 MB/s.
    assert (latency.before, latency.after, latency.change) == pytest.approx((22.0, 20.0, -2.0))
    assert latency.said == ("22 s", "20 s", "-2 s (-9.1 %)")
    assert moved.figure("memory of b").change == pytest.approx(MB)
    assert moved.figure("airtime of net").said == ("8 s", "8 s", "same")
    assert moved.figure("devices").said == ("2", "2", "same")
    assert moved.lines[0].startswith("2 s faster (20 s instead of 22 s)")


def test_sending_it_costs_what_moving_costs(moved: DifferenceView) -> None:
    assert moved.moved_bytes == MB
    assert moved.move_s == pytest.approx(2.0)  # onto the medium and off it at 1 MB/s
    assert moved.move_j == pytest.approx(2 * 2.0)  # both devices wait at 1 W
    assert any("1 MB of parameters have to change place: 2 s and 4 J" in line for line in moved.lines)
    assert "Where both plans are resident nothing has to be sent." in moved.lines


@pytest.mark.parametrize("seed", range(40))
def test_random_pairs_of_plans(seed: int) -> None:
    """Ranges cover the layers once; what moves is what switching counts; figures are the predictions'."""
    dice = Dice(seed)
    work, place, first = random_case(dice)
    second = scheduled(work, place, random_plan(dice, work, place))
    view = difference_view(Case(first, work, place), Case(second, work, place), "all-on")
    bounds = [(each.first_layer, each.stop_layer) for each in view.ranges]
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(work.layers)
    cost = switch(first, second, work, place, "all-on")
    if work.trains:
        assert (view.moved_bytes, view.move_s, view.move_j) == pytest.approx(
            (cost.size_bytes, cost.duration_s, cost.energy_j)
        )
    had, needed, size = held_units(first, work), held_units(second, work), unit_bytes(work)
    lacking = sum(size[unit] for name, units in needed.items() for unit in units - had.get(name, frozenset()))
    assert view.moved_bytes == pytest.approx(float(lacking))
    for plan, side in ((first, 0), (second, 1)):
        assert plan.prediction is not None
        latency, energy = view.figure("latency"), view.figure("energy, all-on")
        assert (latency.before, latency.after)[side] == plan.prediction.makespan_s
        assert (energy.before, energy.after)[side] == plan.prediction.energy_all_on_j
    ElementTree.fromstring(difference_html(view))


def test_a_plan_and_itself() -> None:
    work, place = chain(), cluster(2)
    same = case(work, place, (0, 2, {"a": 4}), (2, 4, {"b": 4}))
    view = difference_view(same, same)
    assert "No layer moves to another device." in view.lines
    assert view.lines[0].startswith("As fast (")
    assert {figure.said[2] for figure in view.figures} == {"same"}
    assert view.moved_bytes == 0
    assert (view.before, view.after) == ("plan, before", "plan, after")


def test_one_plan_in_two_situations() -> None:
    work = chain()
    before = case(work, cluster(2), (0, 2, {"a": 4}), (2, 4, {"b": 4}))
    faster = cluster(2, rates=2e6)
    after = Case(scheduled(work, faster, before.plan.decisions()), work, faster, "twice the rates")
    view = difference_view(before, after)
    change = view.figure("latency").change
    assert change is not None
    assert change < 0
    assert view.figure("airtime of net").change == pytest.approx(-0.5 * view.figure("airtime of net").before)
    assert view.after == "twice the rates"
    assert "No layer moves to another device." in view.lines


def test_devices_that_come_and_go() -> None:
    work, place = chain(), cluster(3)
    before = case(work, place, (0, 2, {"a": 4}), (2, 4, {"b": 4}))
    after = case(work, place.without(["b"]), (0, 2, {"a": 4}), (2, 4, {"c": 4}))
    view = difference_view(before, after)
    assert {"c joins in.", "b is no longer used."} <= set(view.lines)
    assert view.figure("memory of b").said[1:] == ("-", "-")
    assert view.move_s is not None  # the first situation has all of them


def test_no_cluster_with_all_devices() -> None:
    work = chain()
    before = case(work, cluster([device("a"), device("b")]), (0, 4, {"a": 4}))
    after = case(work, cluster([device("c"), device("d")]), (0, 4, {"c": 4}))
    view = difference_view(before, after)
    assert (view.move_s, view.move_j) == (None, None)
    assert view.moved_bytes > 0
    assert any(line.endswith("have to change place.") for line in view.lines)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"a": 4}, {"a": 2, "b": 2}, "l0-3 are also run by b."),
        ({"a": 2, "b": 2}, {"b": 4}, "l0-3 are no longer run by a."),
        ({"a": 2, "b": 2}, {"a": 3, "b": 1}, "Only the samples are shared out differently."),
        ({"a": 2, "b": 2}, {"a": 2, "c": 2}, "l0-3 move from b to c."),
    ],
)
def test_replicas(before: dict[str, int], after: dict[str, int], said: str) -> None:
    work, place = chain(), cluster(3)
    view = difference_view(case(work, place, (0, 4, before)), case(work, place, (0, 4, after)))
    assert said in view.lines


def test_other_micro_batches_are_said() -> None:
    work, place = chain(), cluster(2)
    before = case(work, place, (0, 2, {"a": 4}), (2, 4, {"b": 4}))
    after = case(work, place, (0, 2, {"a": 1}), (2, 4, {"b": 1}), micro_batches=4)
    assert "4 micro-batches of 1 sample instead of 1 micro-batch of 4 samples." in difference_view(before, after).lines


def test_what_cannot_be_compared() -> None:
    work, place = chain(), cluster(2)
    one = case(work, place, (0, 4, {"a": 4}))
    other = workload(4)
    renamed = other.replace(layers=tuple(each.replace(name=f"x{each.name}") for each in other.layers))
    with pytest.raises(InputError, match="same layers"):
        difference_view(one, case(renamed, place, (0, 4, {"a": 4})))
    bare: Plan = one.plan.decisions()
    with pytest.raises(InputError, match="evaluated"):
        difference_view(one, Case(bare, work, place))


def test_text_is_escaped() -> None:
    work, place = chain(), cluster(2)
    one = case(work, place, (0, 4, {"a": 4}))
    html = difference_html(difference_view(one, Case(one.plan, work, place, "<i> & \n")))
    ElementTree.fromstring(html)
    assert "&lt;i&gt; &amp;" in html
