"""The snippet, executed on its own: the same question, the same plan."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from explorer_cases import small_plans

import dora_nb
from dora_nb.costs import cost_table, evaluate
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.explorer import state as state_module
from dora_nb.explorer.asking import Talk
from dora_nb.explorer.snippet import _solver_argument
from dora_nb.explorer.solving import Answered, Effort
from dora_nb.explorer.state import ExplorerState
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question
from dora_nb.solvers import SolverOptions

LONG_S = 120.0
GOAL = QoE(objective="energy", latency_s=2.0)


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    """Of the catalogue, and soon planned."""
    workload = dora_nb.load_workload("vit-b-16", batch=2)
    return plan(workload, dora_nb.load_cluster("smart-home"), GOAL, most_plans=2)


@pytest.fixture
def state(plans: PlanSet) -> Iterator[ExplorerState]:
    made = ExplorerState(plans, pause_s=0.0)
    yield made
    made.close()


@pytest.fixture
def unsolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "solve", lambda *_: None)


def made_by(text: str) -> list[str]:
    """What the text's own names hold: digests, so that they are equal to the last bit."""
    names: dict[str, object] = {}
    exec(text, names)
    made: Plan = names["plan"]  # type: ignore[assignment]
    question = [names[name].digest() for name in ("workload", "cluster", "qoe")]  # type: ignore[attr-defined]
    order = made.replace(label="", prediction=None, certificate=None)
    return [*question, made.decisions().digest(), order.digest()]


def looked_at(state: ExplorerState) -> list[str]:
    question, plan = state.question, state.plan
    order = plan.replace(label="", prediction=None, certificate=None)
    return [each.digest() for each in (question.workload, question.cluster, state.qoe, plan.decisions(), order)]


def test_as_asked_for(state: ExplorerState, tmp_path: Path) -> None:
    text = state.snippet(tmp_path / "plan.json")
    assert "dora.load_workload('vit-b-16', mode='inference', batch=2)" in text
    assert "dora.load_cluster('smart-home')" in text
    assert "SearchSpace" not in text
    assert not (tmp_path / "plan.json").exists()
    for place in range(len(state.plans)):
        state.select(place)
        assert made_by(state.snippet()) == looked_at(state)


def test_in_a_process_of_its_own(state: ExplorerState, tmp_path: Path) -> None:
    code = f"{state.snippet()}\nprint(plan.decisions().digest())\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [state.plan.decisions().digest()]


def test_another_limit_and_its_answer(state: ExplorerState) -> None:
    state.ask(latency_s=1.5, battery_j={"phone": 1000.0}, headroom_fraction=0.2)
    state.wait(LONG_S)
    assert made_by(state.snippet()) == looked_at(state)


def test_another_case_and_its_answer(state: ExplorerState) -> None:
    state.what_if(bandwidth=2.0, speed={"laptop": 0.5}, memory={"phone": 1.5}, batch=4)
    state.wait(LONG_S)
    assert made_by(state.snippet()) == looked_at(state)
    away = next(name for name in state.plans.cluster.device_ids if name not in state.plan.devices)
    state.switch_off(away)
    state.wait(LONG_S)
    assert made_by(state.snippet()) == looked_at(state)


@pytest.mark.usefixtures("unsolved")
def test_a_plan_known_before_under_limits_and_in_a_case_of_now(state: ExplorerState) -> None:
    state.ask(latency_s=1.0)
    state.what_if(bandwidth=0.5)
    assert made_by(state.snippet()) == looked_at(state)


def test_an_answer_whose_trade_offs_are_not_known_yet(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = plan(plans.workload, plans.cluster, GOAL.replace(latency_s=1.2), most_plans=1).best

    def solve(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
        talk.tell(Answered(best))

    monkeypatch.setattr(state_module, "solve", solve)
    state.ask(latency_s=1.2)
    state.wait(LONG_S)
    assert made_by(state.snippet()) == looked_at(state)


@pytest.mark.usefixtures("unsolved")
def test_a_plan_made_for_another_batch_is_read_from_a_file(state: ExplorerState, tmp_path: Path) -> None:
    state.what_if(batch=4)
    path = tmp_path / "plan.json"
    text = state.snippet(path)
    assert f"dora.load_plan({str(path)!r})" in text
    assert made_by(text) == looked_at(state)


def test_what_is_not_in_the_catalogue_is_read_from_a_file(tmp_path: Path) -> None:
    state = ExplorerState(small_plans())
    assert made_by(state.snippet(tmp_path / "mine.json")) == looked_at(state)
    state.close()


def test_a_catalogue_name_is_not_enough_for_a_changed_cluster(plans: PlanSet, tmp_path: Path) -> None:
    place = plans.cluster.scaled(rates=3.0)
    state = ExplorerState(plan(plans.workload, place, GOAL, most_plans=1))
    text = state.snippet(tmp_path / "mine.json")
    assert "load_cluster" not in text
    assert made_by(text) == looked_at(state)
    state.close()


def test_measured_times_are_said_to_be_missing(plans: PlanSet, tmp_path: Path) -> None:
    table = cost_table(plans.workload, plans.cluster)
    state = ExplorerState(plan(plans.workload, plans.cluster, GOAL, most_plans=1, table=table))
    text = state.snippet(tmp_path / "mine.json")
    assert "table=" in text
    assert made_by(text) == looked_at(state)
    state.close()


def test_options_of_planning_are_given_again(plans: PlanSet) -> None:
    space = dora_nb.SearchSpace((1, 2), 1, (1,), 1)
    made = plan(plans.workload, plans.cluster, GOAL, most_plans=3, gap=1e-3, solver="highs", overlap=False, space=space)
    state = ExplorerState(made)
    text = state.snippet()
    for given in ("most_plans=3", "gap=0.001", "solver='highs'", "overlap=False", "micro_batch_sizes=(1, 2)"):
        assert given in text
    assert made_by(text) == looked_at(state)
    state.close()


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ("auto", ""),
        ("highs", "solver='highs'"),
        (SolverOptions(threads=1, seed=2), "solver=dora.SolverOptions(threads=1, seed=2)"),
        (SolverOptions("gurobi", log=Path("s.log")), "solver=dora.SolverOptions(name='gurobi', log='s.log')"),
    ],
)
def test_the_solver_is_given_again(choice: str | SolverOptions, text: str) -> None:
    assert _solver_argument(choice) == text


def test_a_snippet_gives_figures_in_its_case(state: ExplorerState, unsolved: None) -> None:
    state.what_if(bandwidth=0.5)
    names: dict[str, object] = {}
    text = state.snippet()
    assert text.rstrip().endswith("dora.evaluate(plan, workload, cluster).prediction")
    exec(text, names)
    found = evaluate(names["plan"], names["workload"], names["cluster"]).prediction  # type: ignore[arg-type]
    assert state.plan.prediction is not None
    assert found.makespan_s == state.plan.prediction.makespan_s
