"""A plan sent to the executor: what is shown while it runs, how it ends, and one that runs for real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from explorer_cases import small_plans
from runs import made_up_plan, made_up_run

import dora_nb
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.errors import InputError, MissingDependencyError, WorkerLostError
from dora_nb.executor.run import Foreseen, Run
from dora_nb.explorer import running as running_module
from dora_nb.explorer.running import PlanRun, RunView
from dora_nb.explorer.state import ExplorerState

SOON_S, LONG_S = 10.0, 120.0

#: What the faked executor does in its thread.
Work = Callable[[Run], RunRecord]


def started(work: Work, plan: Plan | None = None) -> PlanRun:
    """A run of the made up plan."""
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    shown = made_up_plan() if plan is None else plan
    return PlanRun(shown, record.workload, record.cluster, start=lambda *_, **__: Run(work))


def look_until(run: PlanRun, wanted: Callable[[RunView], bool]) -> RunView:
    until_s = time.monotonic() + SOON_S
    while True:
        view = run.look()
        if view is not None and wanted(view):
            return view
        assert time.monotonic() < until_s, f"still {run.state}"
        time.sleep(0.002)


def over(view: RunView) -> bool:
    return view.over


def foresee(run: Run, record: RunRecord) -> None:
    run.foreseen = Foreseen(record.plan, record.predicted_inference, record.predicted_training)


def test_the_measured_timeline_grows_step_by_step_beside_the_predicted_one() -> None:
    record = made_up_run({"a": 1.2, "b": 1.1, "c": 1.0})
    go_on = threading.Semaphore(0)

    def work(run: Run) -> RunRecord:
        run.tell("profiling the layers")
        go_on.acquire()
        foresee(run, record)
        run.tell("running")
        for step in (INFERENCE, 0, 1):
            go_on.acquire()
            run.events.extend(event for event in record.events if event.step == step)
            run.tell(f"step {step} is over")
        go_on.acquire()
        return record

    run = started(work)
    view = look_until(run, lambda view: view.sentence.startswith("profiling"))
    assert (view.state, view.predicted, view.measured) == ("running", None, None)
    assert run.look() is None, "nothing new"
    go_on.release()
    view = look_until(run, lambda view: view.predicted is not None)
    assert record.predicted_training is not None
    assert view.measured is None
    assert view.predicted is not None
    assert view.predicted.end_s == record.predicted_training.makespan_s
    go_on.release()
    view = look_until(run, lambda view: view.step == "inference batch")
    assert view.predicted is not None
    assert view.measured is not None
    assert view.predicted.end_s == record.predicted_inference.makespan_s
    assert view.measured.status == "measured"
    for step in (1, 2):
        go_on.release()
        view = look_until(run, lambda view, step=step: view.step == f"training step {step}")  # type: ignore[misc]
        assert view.measured is not None
        ends = [event.end_s for event in record.events if event.step == step - 1]
        assert view.measured.end_s == max(ends)
        assert [lane.name for lane in view.measured.lanes] == [lane.name for lane in view.predicted.lanes]  # type: ignore[union-attr]
    go_on.release()
    view = look_until(run, over)
    assert view.state == "done"
    assert view.comparison is not None
    assert view.comparison.predicted_s == record.predicted_s
    assert run.look() is None


def test_a_run_is_cancelled() -> None:
    begun = threading.Event()

    def work(run: Run) -> RunRecord:
        begun.set()
        run.stopping.wait(SOON_S)
        raise RuntimeError("its workers were taken from it")

    run = started(work)
    assert begun.wait(SOON_S)
    run.cancel()
    assert look_until(run, over).state == "cancelled"
    run.cancel()
    assert run.state == "cancelled"


def test_a_run_that_is_cancelled_while_it_starts_does_not_go_on() -> None:
    go_on = threading.Event()

    def start(*_: Any, **__: Any) -> Run:
        go_on.wait(SOON_S)

        def work(run: Run) -> RunRecord:
            run.stopping.wait(SOON_S)
            raise RuntimeError

        return Run(work)

    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    run = PlanRun(made_up_plan(), record.workload, record.cluster, start=start)
    assert run.state == "starting"
    run.cancel()
    go_on.set()
    assert look_until(run, over).state == "cancelled"


def test_what_a_run_fails_with_is_said() -> None:
    def work(run: Run) -> RunRecord:
        raise WorkerLostError(1, "phone fell silent")

    view = look_until(started(work), over)
    assert view.state == "failed"
    assert "phone fell silent" in view.sentence


def test_without_torch_it_says_what_to_install() -> None:
    def start(*_: Any, **__: Any) -> Run:
        raise MissingDependencyError("torch", "running plans", "exec")

    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    run = PlanRun(made_up_plan(), record.workload, record.cluster, start=start)
    view = look_until(run, over)
    assert view.state == "failed"
    assert "pip install 'dora-nb[exec]'" in view.sentence


@pytest.fixture
def state() -> Iterator[ExplorerState]:
    made = ExplorerState(small_plans())
    yield made
    made.close()


def test_the_state_runs_one_plan_at_a_time(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    go_on = threading.Event()

    def execute(*arguments: Any, **options: Any) -> Run:
        given.append((arguments, options))

        def work(run: Run) -> RunRecord:
            go_on.wait(SOON_S)
            raise WorkerLostError(0, "over")

        return Run(work)

    monkeypatch.setattr(running_module, "execute", execute)
    state.select(1)
    state.run(steps=2)
    assert state.busy
    assert state.run_view is not None
    with pytest.raises(InputError, match="another run"):
        state.run()
    state.select(0)
    go_on.set()
    state.wait(SOON_S)
    assert state.run_view.state == "failed"
    (arguments, options), *more = given
    assert not more
    assert arguments[0] == state.known[1].plan
    assert options["steps"] == 2
    assert options["table"] is None


def test_a_plan_runs_for_real() -> None:
    """With torch, workers and an imitated network: its timeline is on the predicted one's lanes."""
    pytest.importorskip("torch")
    work, place = dora_nb.load_workload("vit-b-16", mode="training", batch=2), dora_nb.load_cluster("smart-home")
    plans = dora_nb.plan(work, place, dora_nb.QoE(objective="latency"), most_plans=1)
    assert len(plans.best.devices) > 1
    state = ExplorerState(plans)
    seen: list[RunView] = []
    state.observe(lambda change: seen.append(change["new"]), "run_view")
    state.run(steps=2)
    state.wait(LONG_S)
    assert seen[-1].state == "done", seen[-1].sentence
    assert seen[-1].comparison is not None
    timed = [view for view in seen if view.measured is not None]
    assert {view.step for view in timed} >= {"training step 2"}
    last = timed[-1]
    assert last.predicted is not None
    assert last.measured is not None
    assert [lane.name for lane in last.measured.lanes] == [lane.name for lane in last.predicted.lanes]
    assert len(last.measured) > 0
    assert np.all(last.measured.start_s >= 0)
    assert 0.3 < last.measured.end_s / last.predicted.end_s < 30
    state.close()
