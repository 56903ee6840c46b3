"""The screen without a browser: what widgets and state tell each other, how it follows, and that it ends."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from explorer_cases import small_cluster, small_plans, small_workload
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from jupyter_client.manager import KernelManager

from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError, MissingDependencyError
from dora_nb.explorer import explore
from dora_nb.explorer import screen as screen_module
from dora_nb.explorer.screen import Explorer
from dora_nb.explorer.views.front import FrontView
from dora_nb.explorer.views.map import MapView
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.plan import plan

LONG_S = 120.0


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    made = small_plans()
    assert made.baselines
    return made


@pytest.fixture
def explorer(plans: PlanSet) -> Iterator[Explorer]:
    made = Explorer(plans, pause_s=0.01)
    yield made
    made.close()
    assert made._asker.join(LONG_S), "its thread has ended"


def controls(explorer: Explorer, kind: type | None = None) -> dict[str, Any]:
    """All controls by what stands beside them."""
    found: dict[str, Any] = {}

    def visit(widget: Any) -> None:
        for child in getattr(widget, "children", ()):
            visit(child)
        name = getattr(widget, "description", "")
        if name and (kind is None or isinstance(widget, kind)):
            found[name] = widget

    visit(explorer.screen.root)
    return found


def open_tab(explorer: Explorer, title: str) -> Any:
    tabs = next(each for each in explorer.screen.root.children if isinstance(each, ipywidgets.Tab))
    tabs.selected_index = tabs.titles.index(title)
    return tabs.children[tabs.selected_index]


def said_in(box: Any) -> str:
    """The HTML of a tab."""
    inner = [said_in(child) for child in getattr(box, "children", ())]
    return "".join([*inner, box.value if isinstance(box, ipywidgets.HTML) else ""])


# ---------------------------------------------------------------------------------------------- from the state


def test_all_of_it_shows_the_plan_looked_at(explorer: Explorer, plans: PlanSet) -> None:
    screen = explorer.screen
    for place, each in enumerate(plans):
        explorer.select(place)
        assert screen.plot.selected == place
        assert each.label in screen.gantt.title
        shown = MapView(**screen.network.view)
        assert {card.id for card in shown.devices if card.used} == set(each.devices)
        assert each.label in screen.headline.plan
    explorer.selected = 1
    assert screen.plot.selected == 1
    explorer.compare_with(2)
    assert screen.plot.compared == 2


def test_the_plot_shows_plans_baselines_and_limits_of_now(explorer: Explorer, plans: PlanSet) -> None:
    explorer.ask(latency_s=40.0)
    view = FrontView(**explorer.screen.plot.view)
    assert len(view.points) == len(plans)
    assert view.baselines
    assert view.latency_limit_s == explorer.screen.plot.latency_limit_s == 40.0
    assert [bool(point.missed) for point in view.points] == [each.prediction.makespan_s > 40 for each in plans]  # type: ignore[union-attr]
    explorer.what_if(bandwidth=2.0)
    view = FrontView(**explorer.screen.plot.view)
    assert [point.latency_s for point in view.points] == [each.plan.prediction.makespan_s for each in explorer.known]


def test_what_is_proven_is_proven_for_what_is_asked_now(explorer: Explorer) -> None:
    proven = FrontView(**explorer.screen.plot.view).proven
    assert proven
    explorer.ask(latency_s=40.0)
    assert FrontView(**explorer.screen.plot.view).proven == proven, "the bounds say which latencies they are for"
    explorer.ask(energy_j=1000.0)
    below = {corner for corner in proven if corner[1] < 1000}
    assert below
    assert below <= set(FrontView(**explorer.screen.plot.view).proven), "what keeps more limits keeps these"
    explorer.what_if(bandwidth=2.0)
    assert FrontView(**explorer.screen.plot.view).proven == (), "they are for another case"
    explorer.reset()
    explorer.ask(energy_accounting="all-on")
    assert FrontView(**explorer.screen.plot.view).proven == (), "they count another energy"


def test_the_headline_follows_the_solve(explorer: Explorer) -> None:
    explorer.ask(latency_s=40.0)
    headline = explorer.screen.headline
    assert headline.state == "running"
    assert "40 s" in headline.question[1]
    explorer.wait(LONG_S)
    assert headline.state == "done"
    assert "the best for this question" in headline.plan
    assert headline.moments[-1]["incumbent"] == pytest.approx(explorer.progress.incumbent)


def test_the_bound_of_a_solve_is_a_line_in_the_plot_until_it_is_over(explorer: Explorer) -> None:
    plot, seen = explorer.screen.plot, []
    plot.observe(lambda change: seen.append((change["new"], explorer.progress.bound)), "bound")
    explorer.ask(latency_s=40.0)
    assert plot.bound == []
    explorer.wait(LONG_S)
    assert plot.bound == []
    assert plot.bound_words == ""
    lines = [(corners, bound) for corners, bound in seen if corners]
    assert lines
    for corners, bound in lines:
        assert [joules for _, joules in corners] == [bound, bound]
        assert corners[-1][0] == 40.0
    assert [bound for _, bound in lines] == sorted(bound for _, bound in lines), "it only rises"


def test_the_kernel_answers_the_headline(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not, the browser says why nothing moves."""
    sent: list[Any] = []
    monkeypatch.setattr(explorer.screen.headline, "send", sent.append)
    explorer.screen.headline._handle_custom_msg({"asked": 3}, [])
    assert sent == [{"answered": 3}]


def test_while_no_known_plan_can_run_the_drawings_keep_their_place(plans: PlanSet) -> None:
    only_fast = PlanSet(plans.workload, plans.cluster, plans.qoe, (plans[0],), (), 0.0, None, plans.options)
    explorer = Explorer(only_fast, pause_s=0.0)
    explorer.switch_off("fast")
    screen = explorer.screen
    assert screen.plot.layout.visibility == screen.gantt.layout.visibility == "hidden"
    assert not screen.headline.keeps
    explorer.wait(LONG_S)
    assert screen.plot.layout.visibility == screen.gantt.layout.visibility == "visible"
    explorer.close()


# ---------------------------------------------------------------------------------------------- from the widgets


def test_picking_in_the_plot_picks(explorer: Explorer) -> None:
    explorer.screen.plot.selected = 0
    assert explorer.selected == 0
    explorer.screen.plot.compared = 3
    assert explorer.compared == 3


def test_limits_are_dragged_in_the_plot_and_with_sliders(explorer: Explorer) -> None:
    plot, found = explorer.screen.plot, controls(explorer)
    plot.latency_limit_s = 50.0
    assert explorer.qoe.latency_s == found["At most (s)"].value == 50.0
    assert found["Limit the latency"].value
    found["At most (s)"].value = 60.0
    assert explorer.qoe.latency_s == plot.latency_limit_s == 60.0
    found["Limit the energy"].value = True
    assert explorer.qoe.energy_j == plot.energy_limit_j == found["At most (J)"].value
    found["Limit the latency"].value = False
    assert explorer.qoe.latency_s is None
    assert plot.latency_limit_s is None
    plot.energy_limit_j = None
    assert explorer.qoe.energy_j is None
    assert not found["Limit the energy"].value


def test_sliders_have_the_units_of_the_plot() -> None:
    devices = small_cluster()
    fast = devices.scaled(rates=1e4, speeds=dict.fromkeys(devices.device_ids, 1e4))
    explorer = Explorer(plan(small_workload(), fast, QoE(), most_plans=3))
    try:
        assert explorer.screen.plot.view["latency"]["unit"] == "ms"
        slider = controls(explorer)["At most (ms)"]
        assert (slider.step, slider.readout_format) == (0.05, ",.2f"), "digits of its own steps"
        explorer.ask(latency_s=0.003)
        assert slider.value == pytest.approx(3.0)
        slider.value = 2.6
        assert explorer.qoe.latency_s == pytest.approx(0.0026)
    finally:
        explorer.close()


def test_the_objective_is_chosen(explorer: Explorer) -> None:
    found = controls(explorer)
    found["Best is"].value = "price"
    assert explorer.qoe.joules_per_s == found["J a second"].value
    found["J a second"].value = 9.0
    assert explorer.qoe.joules_per_s == 9.0
    found["Best is"].value = "latency"
    assert explorer.qoe.objective == "latency"


def test_a_limit_beyond_the_slider_moves_its_end(explorer: Explorer) -> None:
    explorer.ask(latency_s=5000.0)
    slider = controls(explorer)["At most (s)"]
    assert slider.value == 5000.0
    explorer.ask(latency_s=0.5)
    assert slider.value == 0.5


def test_what_a_browser_makes_of_a_value_asks_nothing(explorer: Explorer) -> None:
    """A browser moves a slider to the nearest value that it can have, and says so."""
    found = controls(explorer)
    slider = found["At most (s)"]
    explorer.ask(latency_s=51.2345)
    question = explorer.qoe
    slider.value = slider.min + round((51.2345 - slider.min) / slider.step) * slider.step
    found["At most (J)"].value += found["At most (J)"].step
    explorer.what_if(bandwidth=2.345)
    changed = explorer.changed
    found["Bandwidth x"].value = 2 ** (round(math.log2(2.345) * 8) / 8)
    assert (explorer.qoe, explorer.changed) == (question, changed)
    slider.value = slider.min + (round((51.2345 - slider.min) / slider.step) + 1) * slider.step
    assert explorer.qoe.latency_s == slider.value
    found["Bandwidth x"].value = 4.0
    assert explorer.changed.bandwidth == 4.0


def test_what_if_is_dragged(explorer: Explorer) -> None:
    found = controls(explorer)
    found["Bandwidth x"].value = 2.0
    found["Device"].value = "thrifty"
    found["Its speed x"].value = 4.0
    found["Its memory x"].value = 0.5
    found["Batch"].value = 8
    changed = explorer.changed
    assert (changed.bandwidth, changed.speed, changed.memory, changed.batch) == (
        2.0,
        {"thrifty": 4.0},
        {"thrifty": 0.5},
        8,
    )
    open_tab(explorer, "What if")
    found["Device"].value = "fast"
    assert (found["Its speed x"].value, found["Its memory x"].value) == (1.0, 1.0)
    assert explorer.changed == changed
    found["As it was"].click()
    assert explorer.changed.is_none
    assert (found["Bandwidth x"].value, found["Batch"].value) == (1.0, 4)


def test_devices_are_switched_off_on_the_map(explorer: Explorer) -> None:
    network = explorer.screen.network
    network.switched_off = ["fast"]
    assert explorer.changed.off == ("fast",)
    assert not next(card for card in MapView(**network.view).devices if card.id == "fast").on
    network.switched_off = ["fast", "middle", "thrifty"]
    assert explorer.changed.off == ("fast",)
    assert network.switched_off == ["fast"], "what is refused goes back"
    assert "at least one device left" in explorer.screen.headline.problem
    network.switched_off = []
    assert explorer.screen.headline.problem == ""


def test_buttons_cancel_and_go_back(explorer: Explorer) -> None:
    found = controls(explorer)
    assert found["Cancel"].disabled
    explorer.ask(latency_s=55.0)
    assert not found["Cancel"].disabled
    found["Cancel"].click()
    assert explorer.progress.state == "cancelled"
    found["As asked first"].click()
    assert explorer.qoe.latency_s is None
    assert found["Cancel"].disabled


def test_the_smallest_changes_are_buttons(explorer: Explorer) -> None:
    explorer.ask(latency_s=20.0)
    explorer.wait(LONG_S)
    offers = [each for name, each in controls(explorer, ipywidgets.Button).items() if "instead of" in name]
    assert len(offers) == len(explorer.relaxations)
    assert all(each.tooltip for each in offers)
    offers[0].click()
    explorer.wait(LONG_S)
    assert explorer.progress.state == "done"
    assert not [name for name in controls(explorer, ipywidgets.Button) if "instead of" in name]
    assert offers[0].comm is None, "closed"


def test_every_control_says_what_it_is(explorer: Explorer) -> None:
    kinds = (ipywidgets.Button, ipywidgets.FloatSlider, ipywidgets.FloatLogSlider, ipywidgets.Dropdown)
    for kind in (*kinds, ipywidgets.Text, ipywidgets.BoundedIntText, ipywidgets.Checkbox, ipywidgets.Textarea):
        found = controls(explorer, kind)
        assert found
        assert all(each.tooltip for each in found.values()), [name for name, each in found.items() if not each.tooltip]


def test_what_a_person_changes_while_news_arrive_is_not_set_back(explorer: Explorer) -> None:
    """A slider is changed on another thread, and before that asks for it the screen is shown again."""
    slider = controls(explorer)["At most (s)"]
    explorer.ask(latency_s=50.0)
    with explorer.lock:
        dragging = threading.Thread(target=lambda: setattr(slider, "value", 70.0))
        dragging.start()
        until_s = time.monotonic() + 5.0
        while slider.value != 70.0 and time.monotonic() < until_s:
            time.sleep(0.001)
        explorer.follow()
    dragging.join(5.0)
    assert slider.value == explorer.qoe.latency_s == 70.0


# ---------------------------------------------------------------------------------------------- tabs


def test_tabs_tell_of_plans_differences_and_compositions(explorer: Explorer, plans: PlanSet) -> None:
    said = said_in(open_tab(explorer, "Plans"))
    assert all(each.label in said for each in plans)
    box = open_tab(explorer, "Compare")
    assert "Pick another plan" in said_in(box)
    explorer.compare_with(0)
    assert "instead of" in said_in(box)
    controls(explorer)["Beside"].value = 1
    assert explorer.compared == 1
    assert "dora.compose" in said_in(open_tab(explorer, "Composition"))


def test_a_composition_is_shown_beside_the_plans(plans: PlanSet) -> None:
    busy = Condition(name="busy evening", probability=0.3, domain_rate_factors={"net": 0.3})
    conditions = [Condition(name="calm", probability=0.7), busy]
    requests = small_workload().replace(mode="inference")
    goal = QoE(objective="energy", latency_s=20.0)
    mix = compose(
        requests, small_cluster(), goal, conditions, restrict=plan(requests, small_cluster(), goal, most_plans=2)
    )
    explorer = plans.explore(mix)
    assert "busy evening" in said_in(open_tab(explorer, "Composition"))
    explorer.close()


def test_plan_and_code_are_kept(explorer: Explorer, tmp_path: Path) -> None:
    box, found = open_tab(explorer, "Keep"), controls(explorer)
    found["File"].value = str(tmp_path / "mine.json")
    found["Save plan file"].click()
    assert (tmp_path / "mine.json").exists()
    assert "mine.json" in said_in(box)
    found["Show Python"].click()
    assert found["Python"].value == explorer.snippet(tmp_path / "mine.json")
    found["File"].value = str(tmp_path / "nowhere" / "mine.json")
    found["Save plan file"].click()
    assert "nowhere" in explorer.screen.headline.problem


# ---------------------------------------------------------------------------------------------- following


def test_it_follows_on_the_event_loop_and_rests_when_nothing_goes_on(
    plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "INTERVAL_S", 0.01)

    async def use() -> tuple[str, int]:
        explorer = Explorer(plans, pause_s=0.0)
        looks = 0
        plain = explorer.follow

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return plain()

        monkeypatch.setattr(explorer, "follow", counted)
        threading.Thread(target=lambda: explorer.ask(latency_s=45.0)).start()
        until_s = time.monotonic() + LONG_S
        while explorer.progress.state != "done" or not explorer.progress.moments:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        before = looks
        await asyncio.sleep(0.1)
        assert looks == before, "nobody looks when there is nothing to come"
        state = explorer.screen.headline.state
        explorer.close()
        return state, before

    state, looks = asyncio.run(use())
    assert state == "done"
    assert looks > 2


def test_baselines_are_found_in_the_background() -> None:
    plans = small_plans()
    explorer = Explorer(plans, pause_s=0.0)
    assert explorer.baselines == ()
    explorer.wait(LONG_S)
    assert explorer.baselines
    assert FrontView(**explorer.screen.plot.view).baselines
    assert {each.label for each in explorer.baselines} == {each.label for each in plans.baselines}
    explorer.close()


def test_a_question_goes_before_baselines() -> None:
    explorer = Explorer(small_plans(), pause_s=0.0)
    explorer.ask(latency_s=60.0)
    explorer.wait(LONG_S)
    assert explorer.progress.state == "done"
    assert explorer.baselines, "they were found afterwards"
    explorer.close()


# ---------------------------------------------------------------------------------------------- the end


def test_closed_it_leaves_no_widget_and_no_thread(plans: PlanSet) -> None:
    def alive() -> set[str]:
        return set(ipywidgets.widgets.widget._instances)

    before, threads = alive(), set(threading.enumerate())
    explorer = Explorer(plans, pause_s=0.0)
    explorer.ask(latency_s=50.0)
    assert alive() - before
    explorer.close()
    assert explorer._asker.join(LONG_S)
    assert alive() == before
    assert not set(threading.enumerate()) - threads
    explorer.close()


MAKE = """
import sys, threading, ipywidgets
sys.path.insert(0, {tests!r})
from explorer_cases import small_cluster, small_plans, small_workload
if "plans" not in globals():
    plans = small_plans()
explorer = plans.explore()
explorer.ask(latency_s=50)
explorer
"""

COUNT = """
names = [each.name for each in threading.enumerate()]
print(len(ipywidgets.widgets.widget._instances), names.count("dora_nb explorer"))
"""


def test_run_again_its_cell_closes_what_it_made() -> None:
    """In a real kernel, with cell ids as a notebook sends them."""
    manager = KernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def run(cell: str, code: str) -> tuple[str, list[dict[str, Any]]]:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        message = client.session.msg("execute_request", content, metadata={"cellId": cell})
        client.shell_channel.send(message)
        said, shown = "", []
        until_s = time.monotonic() + LONG_S
        while True:
            assert time.monotonic() < until_s
            try:
                news = client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if news["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            kind, inner = news["msg_type"], news["content"]
            assert kind != "error", "\n".join(inner.get("traceback", []))
            said += inner.get("text", "") if kind == "stream" else ""
            shown += [inner["data"]] if kind == "display_data" else []
            if kind == "status" and inner["execution_state"] == "idle":
                return said, shown

    try:
        _, shown = run("a", MAKE.format(tests=str(Path(__file__).parents[1])))
        static, live = shown
        assert "dora-static" in static["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in live
        first = run("b", COUNT)[0].split()
        assert first[1] == "1"
        run("a", MAKE.format(tests=str(Path(__file__).parents[1])))
        until_s = time.monotonic() + LONG_S
        while (again := run("b", COUNT)[0].split()) != first and time.monotonic() < until_s:
            time.sleep(0.2)
        assert again == first
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ---------------------------------------------------------------------------------------------- as an output


def test_it_shows_itself_static_and_live(explorer: Explorer, plans: PlanSet) -> None:
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            explorer._ipython_display_()
    finally:
        InteractiveShell.clear_instance()
    static, live = (each.data for each in captured.outputs)
    assert all(each.label in static["text/html"] for each in plans)
    assert explorer.screen.headline.static_id in static["text/html"]
    assert "latency-optimal" in static["text/plain"]
    assert "<script" not in static["text/html"]
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.screen.root.model_id


def test_a_static_form_plans_nothing() -> None:
    plans = small_plans()
    explorer = Explorer(plans)
    assert explorer._static_html()
    assert plans.known_baselines is None
    explorer.close()


def test_plans_explore_themselves(plans: PlanSet) -> None:
    explorer = plans.explore()
    assert isinstance(explorer, Explorer)
    assert explorer.plans is plans
    assert "4 plans" in repr(explorer)
    explorer.close()


# ---------------------------------------------------------------------------------------------- before it is answered


def test_a_question_is_explored_before_it_is_answered(plans: PlanSet, tmp_path: Path) -> None:
    explorer = explore(small_workload(), small_cluster(), plans.qoe, most_plans=4)
    assert explorer.known
    assert {each.found.kind for each in explorer.known} == {"provisional"}
    assert explorer.screen.headline.state == "running"
    assert "the best found so far" in explorer.screen.headline.plan
    assert "load_plan" in explorer.snippet(tmp_path / "plan.json"), "nobody finds that plan again by planning"
    explorer.wait(LONG_S)
    assert explorer.plans.plans == plans.plans
    assert [each.plan for each in explorer.known] == list(plans.plans)
    assert {each.found.kind for each in explorer.known} == {"asked"}
    assert explorer.plan == plans.best
    assert explorer.selected == explorer.answer == explorer.screen.plot.selected
    assert explorer.screen.headline.state == "done"
    assert explorer.progress.gap <= 1e-4  # type: ignore[operator]
    assert explorer.baselines, "they were found afterwards"
    explorer.close()


def test_another_question_goes_first_and_stays(plans: PlanSet) -> None:
    explorer = explore(small_workload(), small_cluster(), plans.qoe, most_plans=4)
    explorer.ask(latency_s=45.0)
    explorer.wait(LONG_S)
    assert explorer.qoe.latency_s == 45.0
    assert explorer.progress.state == "done"
    assert explorer.plan.prediction.makespan_s <= 45.0  # type: ignore[union-attr]
    assert explorer.plans.plans == plans.plans, "proven afterwards"
    explorer.reset()
    assert explorer.plan == plans.best
    explorer.close()


def test_what_is_cancelled_is_not_proven(plans: PlanSet) -> None:
    explorer = explore(small_workload(), small_cluster(), plans.qoe, most_plans=4)
    explorer.cancel()
    explorer.wait(LONG_S)
    assert explorer.progress.state == "cancelled"
    assert explorer.known
    explorer.close()


def test_a_question_without_an_answer_is_refused_at_once() -> None:
    with pytest.raises(InfeasibleError):
        explore(small_workload(), small_cluster(), QoE(latency_s=1e-3))


def test_what_is_missing_is_named(plans: PlanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    import dora_nb.explorer as room

    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'ipywidgets'", name="ipywidgets")

    monkeypatch.setattr(room.importlib, "import_module", missing)
    monkeypatch.delitem(vars(room), "Explorer", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dora-nb\[explore\]'"):
        plans.explore()
