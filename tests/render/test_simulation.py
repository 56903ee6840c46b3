"""A simulation as HTML: figures, marks and words agree with the record, names are escaped, and size is bounded."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import Any

import pytest
from builders import cluster, device, layer, pipeline, workload
from worlds import scheduled, two_ways

from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.render import svg
from dora_nb.render.simulation import simulation_html
from dora_nb.render.simulation_chart import MOST_POINTS, simulation_svg
from dora_nb.simulation import SimulationRecord, Trace, World, simulate
from dora_nb.simulation.record import PlanChange, QoEWindow, Waiting, ledger

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '<b onload="x()">&\'\n\x1b[31m ]]>'
BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#999999"


class Fallback:
    """The first of some plans whose devices are there."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = plans

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        return next((plan for plan in self.plans if present.issuperset(plan.devices)), None)

    def observe(self, report: StepReport) -> None: ...


def page(markup: str) -> ET.Element:
    """The fragment read as XML."""
    return ET.fromstring(markup.replace("<br>", "<br/>"))


def figure(record: SimulationRecord) -> ET.Element:
    return ET.fromstring(simulation_svg(record))


def texts(root: ET.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def tips(root: ET.Element, pattern: str) -> list[ET.Element]:
    """Marks whose tooltip says something."""
    found = (each for each in root.iter() if (tip := each.find(f"{SVG}title")) is not None and tip.text is not None)
    return [each for each in found if re.search(pattern, each.find(f"{SVG}title").text)]  # type: ignore[union-attr,arg-type]


def words_of(root: ET.Element) -> str:
    return " ".join(text for each in root.iter() if each.tag != "style" for text in (each.text or "", each.tail or ""))


@pytest.fixture(scope="module")
def record() -> SimulationRecord:
    """b until its battery is empty, a as long as it is there, then nobody, and a again."""
    work, place, plans = two_ways(parameters=250_000)
    world = World(place).having("presence", "a", Trace.steps([(0, 1), (33, 0), (45, 1)]))
    options: dict[str, Any] = {"horizon_s": 60, "window_s": 10, "resident": plans.values()}
    return simulate(
        work, world, Fallback(plans["b"], plans["a"]), QoE(latency_s=3), battery_j={"b": 190, "a": 500}, **options
    )


def made(
    latencies_s: Iterable[float],
    plans: Iterable[Plan] = (),
    *,
    qoe: QoE | None = None,
    horizon_s: float = 100.0,
    window_s: float = 10.0,
    **fields: Any,
) -> SimulationRecord:
    """A record of steps that end at even intervals."""
    ways = list(plans) or [pipeline((0, 2, {"a": 1})).replace(label="alone")]
    latencies = list(latencies_s)
    steps = []
    for index, latency_s in enumerate(latencies):
        end_s = horizon_s * (index + 1) / len(latencies)
        steps.append(StepReport(ways[index % len(ways)], end_s - latency_s, end_s, end_s, None, 5.0, {}, {}))
    asked = QoE() if qoe is None else qoe
    windows = ledger(steps, [step.arrival_s for step in steps], asked, window_s, horizon_s)
    parts: dict[str, Any] = {"lost": (), "changes": (), "waits": (), "windows": windows, "notes": ()} | fields
    figures = {"energy_participating_j": 1.0, "energy_all_on_j": 2.0, "events": 1}
    return SimulationRecord(asked, horizon_s, window_s, tuple(steps), **parts, **figures)


# ------------------------------------------------------------------ what is said


def test_a_notebook_shows_the_figures_and_what_went_wrong(record: SimulationRecord) -> None:
    assert record._repr_html_() == simulation_html(record)
    said = words_of(page(simulation_html(record)))
    for words in (
        f"QoE kept in {sum(w.kept for w in record.windows)} of 6 windows",
        f"mean latency {record.mean_latency_s:.3g} s",
        f"{record.energy_per_step_j:.3g} J a step",
        f"Simulated 60 s in windows of 10 s: {len(record.steps)} steps completed, 2 lost",
        "latency at most 3 s; energy counting the plan's devices",
        "Waited 12 s, from 33 s to 45 s: no plan could run; there were no devices; the battery of b is empty.",
        "2 steps lost and asked for again: 1 because b left and 1 because a left.",
        "Left in batteries: b nothing and a",
        "Most memory needed: a 2 MB and b 2 MB.",
        "The battery of b was empty at 9.5 s.",
    ):
        assert words in said


def test_the_fragment_stands_alone(record: SimulationRecord) -> None:
    markup = simulation_html(record)
    root = page(markup)
    tags = {each.tag.rsplit("}")[-1] for each in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "html", "body"}
    assert not [
        name for each in root.iter() for name in each.attrib if name.startswith("on") or name in ("src", "href")
    ]
    assert "url(" not in markup
    assert "@import" not in markup
    labels = root.iter(f"{SVG}text")
    assert {each.get("fill") for each in labels} == {"currentColor"}  # readable on light and dark pages


def test_markup_in_names_is_text() -> None:
    names = [f"{NASTY}{name}" for name in "ab"]
    work = workload([layer("l0", flops=2e9), layer("l1", flops=2e9)], mode="inference", batch=1, source=names[1])
    place = cluster([device(name) for name in names])
    plan = scheduled(work, place, pipeline((0, 2, {names[0]: 1}))).replace(label=f"{NASTY} plan")
    world = World(place).having("presence", names[1], Trace.steps([(0, 1), (50, 0)]))
    record = simulate(work, world, plan, QoE(latency_s=1), horizon_s=60, window_s=10, battery_j={names[0]: 70})
    assert record.lost
    assert record.waits
    markup = simulation_html(record)
    assert "<b " not in markup
    assert "\x1b" not in markup
    assert "onload" in words_of(page(markup))


def test_waits_that_follow_one_another_are_one_and_only_a_few_are_told() -> None:
    waits = [Waiting(2.0 * n, 2.0 * n + (2.0 if n < 2 else 1.0), f"reason {n}") for n in range(20)]
    said = words_of(page(simulation_html(made([1.0] * 5, waits=tuple(waits)))))
    assert "Waited 5 s, from 0 s to 5 s: at first reason 0." in said
    assert "reason 1" not in said
    assert "Waited 12 more times, 12 s in all." in said


def test_changes_that_move_something_are_told() -> None:
    plan = pipeline((0, 2, {"a": 1}))
    changes = tuple(PlanChange(at_s, plan, plan, size, 2.0, 3.0) for at_s, size in ((1.0, 0.0), (2.0, 5e6)))
    assert "Changing plans moved 5 MB and took 4 s and 6 J." in words_of(
        page(simulation_html(made([1.0], changes=changes)))
    )
    assert "Changing" not in words_of(page(simulation_html(made([1.0], changes=changes[:1]))))


def test_plans_that_ran_are_named_with_their_devices(record: SimulationRecord) -> None:
    root = page(simulation_html(record))
    rows = {name.text: said.text or "" for name, said in zip(root.iter("dt"), root.iter("dd"), strict=True)}
    assert rows["1 b"] == "on b: 4 steps, 2 s on average"
    assert rows["2 a"].startswith("on a: ")


# ------------------------------------------------------------------ what is drawn


def test_every_step_is_a_point_in_the_colour_of_its_plan(record: SimulationRecord) -> None:
    root = figure(record)
    groups = {group.get("fill"): group for group in root.iter(f"{SVG}g") if group.get("fill")}
    points = [(circle, colour) for colour, group in groups.items() for circle in group.iter(f"{SVG}circle")]
    long = tips(root, r"^plan .*: 1[0-9.]+ s, ended")  # asked for before the wait
    assert len(points) + len(long) == len(record.steps)
    assert Counter(colour for _, colour in points) + Counter({BLUE: len(long)}) == Counter(
        {BLUE: sum(step.plan.label == "a" for step in record.steps), ORANGE: 4}
    )
    assert {"1 b", "2 a", "latency limit 3 s", "window missed", "waited", "step lost", "mean of a window"} <= set(
        texts(root)
    )
    assert {"time (s)", "latency (s)", "lost"} <= set(texts(root))
    quick = [float(circle.get("cx", "nan")) for circle, colour in points if colour != BLUE]
    assert quick == sorted(quick)
    height = {colour: {circle.get("cy") for circle, own in points if own == colour} for colour in groups}
    assert max(map(float, height[ORANGE])) == min(map(float, height[ORANGE]))  # type: ignore[arg-type]


def test_points_limit_windows_and_waits_are_where_they_belong() -> None:
    """Axes are linear: 1 s to 2 s on the left is half of 2 s to 4 s; 25 s to 50 s below is a quarter of the width."""
    waits = (Waiting(25.0, 50.0, "it was late"),)
    windows = tuple(QoEWindow(25.0 * n, 25.0 * n + 25, 1, 1.0, 1.0, n != 2) for n in range(4))
    root = figure(made([1.0, 2.0, 4.0, 3.0], qoe=QoE(latency_s=3.0), waits=waits, windows=windows, window_s=25.0))
    points = sorted(
        (float(each.get("cx", "nan")), float(each.get("cy", "nan")))
        for each in tips(root, "ended at")
        if each.get("cx")
    )
    across, down = zip(*points, strict=True)
    assert [b - a for a, b in pairwise(across)] == pytest.approx([across[1] - across[0]] * 3, abs=0.02)
    assert down[0] - down[2] == pytest.approx(3 * (down[0] - down[1]), abs=0.05)
    (limit,) = tips(root, "latency limit 3 s")
    assert limit.get("y1") == limit.get("y2") == svg.number(down[3])
    quarter = across[1] - across[0]
    (shade,) = tips(root, "1 window missed, from 50 s to 75 s")
    assert float(shade.get("x", "nan")) == pytest.approx(across[1], abs=0.02)
    assert float(shade.get("width", "nan")) == pytest.approx(quarter, abs=0.02)
    (wait,) = tips(root, "1 wait, from 25 s to 50 s")
    assert float(wait.get("x", "nan")) == pytest.approx(across[0], abs=0.02)
    assert float(wait.get("y", "nan")) > max(down)


def test_one_step_out_of_all_proportion_does_not_flatten_the_others() -> None:
    root = figure(made([1.0] * 30 + [200.0] + [1.0] * 30))
    (far,) = tips(root, ": 200 s, ended at")
    assert far.tag == f"{SVG}path"
    assert "longer than shown" in texts(root)
    bottom = max(float(each.get("cy", "nan")) for each in tips(root, ": 1 s,"))
    top = float(re.match(r"M[\d.]+ ([\d.]+)", far.get("d", ""))[1])  # type: ignore[index]
    assert bottom - top < 60  # pixels: the others are near the upper edge, not at the axis


def test_a_limit_far_above_is_named_and_not_drawn() -> None:
    root = figure(made([1.0] * 4, qoe=QoE(latency_s=60.0)))
    assert "latency limit 60 s, far above" in texts(root)
    assert not tips(root, "latency limit")


@pytest.mark.parametrize("fields", [{}, {"waits": (Waiting(0.0, 100.0, "nobody came"),)}, {"window_s": 1e3}])
def test_there_may_be_no_step_and_no_window(fields: dict[str, Any]) -> None:
    record = made([], qoe=QoE(latency_s=3.0), **fields)
    said = words_of(page(simulation_html(record)))
    assert "no step completed" in said
    assert "no step was completed" in texts(figure(record))
    assert ("Not one whole window" in said) == (not record.windows)
    page(simulation_html(made([1e-5], horizon_s=2e-5, window_s=1e-5)))


def test_labels_keep_apart_and_inside() -> None:
    plans = [pipeline((0, 2, {"a": 1})).replace(label=f"{'long ' * n}{n}", micro_batches=n + 1) for n in range(8)]
    waits, lost = (Waiting(0.0, 5.0, "x"),), (StepReport(plans[0], 0.0, 0.0, 3.0, "a", 0.0, {}, {}),)
    root = figure(made([1.0] * 39 + [9.0], plans, qoe=QoE(latency_s=0.5), waits=waits, lost=lost))
    width, height = (float(root.get(name, "nan")) for name in ("width", "height"))
    boxes = []
    for each in root.iter(f"{SVG}text"):
        if not each.get("transform"):
            x, y = (float(each.get(name, "nan")) for name in ("x", "y"))
            boxes.append(svg._box(svg.Placed(x, y, each.get("text-anchor", ""), each.text or "")))
    assert all(box.left > 0 and box.right < width + 4 and box.top > 0 and box.bottom < height + 2 for box in boxes)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))


# ------------------------------------------------------------------ many steps


def test_thousands_of_steps_are_drawn_together() -> None:
    plans = [pipeline((0, 2, {"a": 1})).replace(label=str(n), micro_batches=n + 1) for n in range(9)]
    waits = tuple(Waiting(n / 20, n / 20 + 0.01, "x") for n in range(2000))
    lost = tuple(StepReport(plans[0], 0.0, 0.0, n / 20, "a", 0.0, {}, {}) for n in range(2000))
    windows = tuple(QoEWindow(n / 20, (n + 1) / 20, 1, 1.0, 1.0, bool(n % 2)) for n in range(2000))
    latencies = [1 + index % 7 / 7 for index in range(20_000)]
    record = made(latencies, plans, qoe=QoE(latency_s=1.5), waits=waits, lost=lost, windows=windows, window_s=0.05)
    markup = simulation_html(record)
    root = figure(record)
    marks = sum(each.tag in (f"{SVG}{kind}" for kind in ("circle", "rect", "path", "line")) for each in root.iter())
    assert marks <= 2_000
    assert len(markup) < 600_000
    counts = [re.match(r"[\d,]+", each.find(f"{SVG}title").text)[0] for each in tips(root, "step.* of .*, ended from")]  # type: ignore[union-attr,index,arg-type]
    assert sum(int(count.replace(",", "")) for count in counts) == 20_000
    assert "4 other plans" in texts(root)
    assert any(text.endswith("shortest, mean, longest") for text in texts(root))
    assert sum(each.get("fill") == GREY for each in root.iter(f"{SVG}g")) == 1


def test_a_bar_reaches_from_the_shortest_to_the_longest() -> None:
    count = MOST_POINTS + 1
    root = figure(made([1.0 if index % 2 else 3.0 for index in range(count)], qoe=QoE(latency_s=3.0)))
    bars = tips(root, "1 s to 3 s, mean")
    assert bars
    (limit,) = tips(root, "latency limit")
    assert {bar.get("y") for bar in bars} == {limit.get("y1")}
    few = figure(made([1.0] * MOST_POINTS))
    assert len(tips(few, "ended at")) == MOST_POINTS
