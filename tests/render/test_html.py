"""HTML and SVG: well formed, self-contained, escaped, and with every plan in it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import combinations, pairwise

import pytest
from builders import pipeline

from dora_nb.costs.evaluate import Evaluation, evaluate
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.render import svg, timeline
from dora_nb.render.html import front_svg, plan_html, plan_set_html, timeline_svg
from dora_nb.render.words import energy_of, makespan_s
from dora_nb.units import counted

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"br"}


class Reader(HTMLParser):
    """Checks that tags are balanced, and gathers tags, attributes and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.rows = 0
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self.rows += tag == "tr"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] != "style":
            self.text += data


def figure(markup: str) -> ET.Element:
    """A figure read as XML."""
    root = ET.fromstring(markup)
    assert root.tag == f"{SVG}svg"
    assert root.get("aria-label")
    return root


def texts(root: ET.Element) -> list[str]:
    """Labels that are drawn."""
    return [each.text or "" for each in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("which", ["plans", "nasty", "bare"])
def test_a_plan_set_is_a_balanced_fragment_that_fetches_nothing(which: str, request: pytest.FixtureRequest) -> None:
    plan_set = request.getfixturevalue(which)
    markup = plan_set_html(plan_set)
    page = Reader(markup)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "html", "body"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in markup
    assert "@import" not in markup
    assert page.rows == 1 + len(plan_set.plans) + (1 + len(plan_set.baselines) if plan_set.baselines else 0)
    for each in (*plan_set.plans, *plan_set.baselines):
        assert "".join(c if c.isprintable() or c in "\n\t" else " " for c in each.label) in page.text


def test_what_a_notebook_shows_is_this_fragment(plans: PlanSet) -> None:
    markup = plans._repr_html_()
    assert markup == plan_set_html(plans)
    text = Reader(markup).text
    assert f"{len(plans)} plans for bert-base on smart-home: least energy" in text
    assert "participating" in text
    assert "all-on" in text
    assert "as fast as" in text


def test_markup_in_names_is_text(nasty: PlanSet) -> None:
    markup = plan_set_html(nasty) + plan_html(nasty.best)
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert "\x1b" not in markup
    for part in (front_svg(nasty), timeline_svg(evaluate(nasty.best, nasty.workload, nasty.cluster), nasty.best)):
        figure(part)


def test_styles_reach_nothing_outside_the_fragment(plans: PlanSet) -> None:
    style = re.search(r"<style>(.*?)</style>", plan_set_html(plans), re.DOTALL)
    assert style is not None
    for selectors in re.findall(r"([^{}]+)\{", style[1]):
        assert all(each.strip().startswith(".dora-nb") for each in selectors.split(","))


def test_colours_of_text_follow_the_theme_with_a_fallback(plans: PlanSet) -> None:
    markup = plan_set_html(plans)
    for variable in re.findall(r"var\(([^()]*)", markup):
        assert "," in variable, f"{variable} has no fallback"
    labels = figure(front_svg(plans)).iter(f"{SVG}text")
    assert {each.get("fill") for each in labels} == {"currentColor"}


def test_the_front_has_a_dot_per_plan_a_ring_per_baseline_and_the_limit(plans: PlanSet) -> None:
    root = figure(front_svg(plans))
    tips = [tip.text or "" for circle in root.iter(f"{SVG}circle") for tip in circle.iter(f"{SVG}title")]
    assert sum(not tip.startswith("baseline: ") for tip in tips) == len(plans.plans)
    far = [label for label in texts(root) if label.startswith("not drawn, far off")]
    assert sum(tip.startswith("baseline: ") for tip in tips) == len(plans.baselines) - len(far)
    labels = texts(root)
    assert "latency (s)" in labels
    assert "energy, participating (J)" in labels
    assert "latency limit 4 s" in labels
    ordered = sorted(plans.plans, key=makespan_s)
    dots = [circle for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None]
    across = [float(dot.get("cx", "nan")) for dot in dots[: len(ordered)]]
    down = [float(dot.get("cy", "nan")) for dot in dots[: len(ordered)]]
    assert across == sorted(across)
    energies = [energy_of("participating")(plan) for plan in ordered]
    assert (down == sorted(down)) == (energies == sorted(energies, reverse=True))


@pytest.mark.parametrize("which", ["plans", "nasty"])
def test_labels_of_the_front_keep_apart_and_inside(which: str, request: pytest.FixtureRequest) -> None:
    root = figure(front_svg(request.getfixturevalue(which)))
    width, height = (float(root.get(name, "nan")) for name in ("width", "height"))
    boxes = []
    for each in root.iter(f"{SVG}text"):
        if each.get("transform"):
            continue
        placed = svg.Placed(
            float(each.get("x", "nan")), float(each.get("y", "nan")), each.get("text-anchor", ""), each.text or ""
        )
        boxes.append(svg._box(placed))
    assert all(box.left > 0 and box.right < width and box.top > 0 and box.bottom < height + 2 for box in boxes)
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))


def test_what_is_proven_is_in_the_figure_and_no_plan_below_it(plans: PlanSet) -> None:
    root = figure(front_svg(plans))
    (area,) = root.iter(f"{SVG}polygon")
    assert "proven: no plan" in texts(root)
    line = [tuple(map(float, each.split(","))) for each in area.get("points", "").split()]
    assert all(0 < y < 340 for _, y in line)
    bare_of_proof = [plan.replace(certificate=None) for plan in plans.plans]
    unproven = PlanSet(plans.workload, plans.cluster, plans.qoe, tuple(bare_of_proof), (), 1.0)
    assert not list(figure(front_svg(unproven)).iter(f"{SVG}polygon"))


def test_limits_far_away_are_named_instead_of_drawn(plans: PlanSet) -> None:
    qoe = QoE(latency_s=3600, energy_j=1e7)
    root = figure(front_svg(PlanSet(plans.workload, plans.cluster, qoe, plans.plans, (), 1.0)))
    assert [text for text in texts(root) if text.startswith("not drawn")] == [
        "not drawn, far off: the latency limit of 3,600 s",
        "not drawn, far off: the energy limit of 10,000 kJ",
    ]


def test_one_plan_alone_has_a_figure_and_none_has_not(plans: PlanSet, bare: PlanSet) -> None:
    alone = PlanSet(plans.workload, plans.cluster, QoE(), plans.plans[:1], (), 1.0)
    figure(front_svg(alone))
    assert front_svg(bare) == ""


def test_one_plan_as_html(plans: PlanSet, bare: PlanSet) -> None:
    page = Reader(plan_html(plans.best))
    assert plans.best.label in page.text
    assert plans.best.devices[0] in page.text
    Reader(plan_html(bare.plans[0]))


def test_one_plan_as_text(plans: PlanSet) -> None:
    head, facts, *stages = str(plans.best).splitlines()
    assert head == f"{plans.best.label}: {counted(len(plans.best.stages), 'stage')}"
    assert "latency" in facts
    assert "to the bound" in facts
    assert len(stages) >= len(plans.best.stages)
    assert all(name in repr(plans.best) for name in plans.best.devices)
    assert repr(plans.best.decisions()).startswith("plan: ")


# ---------------------------------------------------------------------------------------------- timeline


def bars(root: ET.Element) -> list[ET.Element]:
    """Bars of a timeline; what has a tooltip."""
    return [each for each in root.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]


@pytest.mark.parametrize("index", [0, 1, -1])
def test_the_timeline_has_a_lane_per_device_and_medium_and_every_operation(plans: PlanSet, index: int) -> None:
    plan = plans[index]
    evaluation = evaluate(plan, plans.workload, plans.cluster)
    root = figure(timeline_svg(evaluation, plan))
    shared = {"wifi", "activations"} if len(plan.stages) > 1 else set()
    assert {*plan.devices, *shared, "forward", "backward", "step", "time (s)"} <= set(texts(root))
    drawn = bars(root)
    assert len(drawn) == sum(len(entry.places) for entry in evaluation.timeline)
    width = float(root.get("width", "nan"))
    assert all(float(bar.get("x", "nan")) + float(bar.get("width", "nan")) <= width for bar in drawn)


def test_bars_of_one_lane_do_not_cover_each_other(plans: PlanSet) -> None:
    plan = plans[0]
    root = figure(timeline_svg(evaluate(plan, plans.workload, plans.cluster), plan))
    lanes: dict[str, list[tuple[float, float]]] = {}
    for bar in bars(root):
        x = float(bar.get("x", "nan"))
        lanes.setdefault(bar.get("y", ""), []).append((x, x + float(bar.get("width", "nan"))))
    assert len(lanes) == len(plan.devices) + 1
    for spans in lanes.values():
        spans.sort()
        assert all(end <= start + 0.5 for (_, end), (start, _) in pairwise(spans))


def test_timelines_can_have_one_time_axis(plans: PlanSet) -> None:
    evaluation = evaluate(plans[0], plans.workload, plans.cluster)
    end_s = max(entry.end_s for entry in evaluation.timeline)
    whole, half = (figure(timeline_svg(evaluation, plans[0], until_s)) for until_s in (end_s / 2, 2 * end_s))
    ends = [
        max(float(bar.get("x", "nan")) + float(bar.get("width", "nan")) for bar in bars(root)) for root in (whole, half)
    ]
    left = min(float(bar.get("x", "nan")) for bar in bars(half))
    assert (ends[1] - left) / (ends[0] - left) == pytest.approx(0.5, rel=0.01)


def test_a_long_timeline_says_that_it_is_shortened(plans: PlanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluate(plans[0], plans.workload, plans.cluster)
    assert "Shortened" not in timeline_svg(evaluation, plans[0])
    monkeypatch.setattr(timeline, "MOST_BARS", 10)
    root = figure(timeline_svg(evaluation, plans[0]))
    assert len(bars(root)) == 10
    assert any("Shortened: the first 10 of " in label for label in texts(root))


@dataclass
class Odd:
    """A span of a kind that is new."""

    kind: str = "thinking"
    stage: int = 0
    micro_batch: int = 0
    start_s: float = 0.0
    end_s: float = 2e-6
    places: tuple[str, ...] = ("<phone>",)


def test_a_timeline_of_microseconds_of_something_new_and_of_nothing() -> None:
    plan = pipeline((0, 1, {"<phone>": 1}))
    root = figure(timeline_svg(Evaluation(plan, None, None, lambda: (Odd(),), None), plan))  # type: ignore[arg-type]
    assert {"<phone>", "time (us)"} <= set(texts(root))
    root = figure(timeline_svg(Evaluation(plan, None, None, tuple, None), plan))  # type: ignore[arg-type]
    assert texts(root) == ["Predicted schedule of a plan: nothing to show"]


# ---------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize(("low", "high"), [(0, 61.5), (0.1, 0.13), (0, 1e-5), (99.9, 100.0), (0, 12345.0)])
def test_ticks_are_round_inside_and_told_apart(low: float, high: float) -> None:
    ticks = svg.Axis(low, high, 0, 500).ticks(7)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= value <= high * (1 + 1e-9) for value, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    for value, label in ticks:
        assert float(label.replace(",", "")) == pytest.approx(value, abs=1e-12)


def test_a_label_that_fits_nowhere_is_left_out() -> None:
    assert svg.place_labels([(10, 10)], [["a long label"]], svg.Box(0, 0, 20, 20)) == [None]
