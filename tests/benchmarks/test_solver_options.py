"""Which options of HiGHS matter on the partition and transfer programs.

``pytest tests/benchmarks/test_solver_options.py -o addopts='--import-mode=importlib' -s`` solves the programs that
planning asks (caught on their way to the solver; transfer programs with a plan in hand) with one option
changed at a time. It prints, for each kind of program, the processor seconds of the solver relative to HiGHS as it
stands: the median of three runs of each program, the sum over programs. A MIP start is the optimum itself, which no
heuristic can beat as one.

Found on a busy machine with HiGHS 1.16.0 (seconds, and relative to HiGHS as it stands):

===========================  ====================  ====================
option                       partition (97-129     transfers (269-480
                             columns)              columns)
===========================  ====================  ====================
as it stands                 0.06  1.00            0.45  1.00
presolve off                 0.08  1.25            0.38  0.84
symmetry off                 0.07  1.18            0.55  1.21
cuts at the root only        0.07  1.09            0.43  0.95
heuristics off               0.06  1.06            0.47  1.05
1 thread                     0.04  0.68            0.42  0.93
2 threads                    0.07  1.11            0.52  1.15
started at the optimum       0.05  0.89            0.10  0.21
===========================  ====================  ====================

One pass over three programs of each kind. One thread was the quickest on partition programs and a little quicker on
transfers, presolve off on transfers only; these are hundredths of a second beside other work on the machine, so HiGHS
is left as it stands. A very good start helps the transfer program; planning asks it only for schedules better than the
best known, so it has none to give. Joint programs and compositions were not measured.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from benchmarks.test_joint_optimum import thirty_by_eight

from dora_nb import solvers
from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.exact.programs import program_of
from dora_nb.planning.plan import plan
from dora_nb.solvers import highs
from dora_nb.solvers.contract import Options
from dora_nb.solvers.lineardata import LinearData, read
from dora_nb.solvers.running import Watch

#: Runs whose median counts, programs of a kind, and seconds after which one is stopped.
RUNS, MOST, LIMIT_S = 3, 3, 20.0

OPTIONS: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "presolve off": {"presolve": "off"},
    "symmetry off": {"mip_detect_symmetry": False},
    "cuts at the root only": {"mip_allow_cut_separation_at_nodes": False},
    "heuristics off": {"mip_heuristic_effort": 0.0},
    "1 thread": {"threads": 1},
    "2 threads": {"threads": 2},
    "started at the optimum": {},
}


def caught(monkeypatch: pytest.MonkeyPatch, ask: Any) -> list[LinearData]:
    """The integer programs that a call asks a solver, the largest first."""
    found: list[LinearData] = []
    solve = solvers.solve

    def watched(model: Any, *arguments: Any, **options: Any) -> solvers.Outcome:
        data = read(model)
        if data.is_mip:
            found.append(data)
        return solve(model, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(solvers, "solve", watched)
        ask()
    return sorted(found, key=lambda data: -len(data.cost))[:MOST]


def partition_programs(monkeypatch: pytest.MonkeyPatch) -> list[LinearData]:
    """The second computation of the answers of one question."""
    work, place = load_workload("qwen3-0.6b", mode="training", batch=16), load_cluster("smart-home")
    return caught(monkeypatch, lambda: plan(work, place, QoE(latency_s=30, objective="energy"), solver="highs"))


def transfer_programs(monkeypatch: pytest.MonkeyPatch) -> list[LinearData]:
    """The best schedule of the fastest plan's transfers, 30 layers on 8 unlike devices."""
    return [_with_plan(seed) for seed in range(MOST)]


def _with_plan(seed: int) -> LinearData:
    work, place = thirty_by_eight(seed, "shared")
    space = SearchSpace((2,), 1, (1, 2))
    best = plan(work, place, QoE(), most_plans=1, gap=1e-3, solver="highs", space=space).best
    return read(program_of(best, work, place, QoE(), which="transfers", space=space).model)


@pytest.mark.parametrize("programs", [partition_programs, transfer_programs])
def test_options_of_highs(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = programs(monkeypatch)
    assert asked
    print(f"\n{programs.__name__.replace('_', ' ')}: {', '.join(f'{len(each.cost):,} columns' for each in asked)}")
    usual_s = 0.0
    for name, options in OPTIONS.items():
        start = name.startswith("started")
        runs = [_median(data, options, start) for data in asked]
        seconds = sum(each_s for each_s, _ in runs)
        usual_s = usual_s or seconds
        stopped = sum(not done for _, done in runs)
        late = f", {stopped} of {len(runs)} stopped" if stopped else ""
        print(f"    {name:<24} {seconds:7.2f} s {seconds / usual_s:6.2f}{late}")


def _median(data: LinearData, options: Mapping[str, Any], start: bool) -> tuple[float, bool]:
    """Processor seconds of the solver, and whether it came to an end."""
    first = _solved(data, {}, None) if start else None
    runs = []
    while len(runs) < RUNS and (not runs or runs[0][0] < LIMIT_S / 2):
        began_s = time.process_time()
        solver = _solved(data, options, first)
        runs.append(
            (time.process_time() - began_s, solver.modelStatusToString(solver.getModelStatus()) != "Time limit")
        )
    return statistics.median(each_s for each_s, _ in runs), all(done for _, done in runs)


def _solved(data: LinearData, options: Mapping[str, Any], start: Any) -> Any:
    solver = highs._quiet_highs()
    usual = highs._options(Options(mip_gap=1e-6, time_limit_s=LIMIT_S), Watch(None, threading.Event()))
    for option, value in {**usual, **options}.items():
        solver.setOptionValue(option, value)
    solver.passModel(highs._linear_program(data, highs._objective_scale(data)))
    if start is not None:
        solver.setSolution(start.getSolution())
    # HiGHS counts its threads once for every thread that calls it.
    thread = threading.Thread(target=solver.run)
    thread.start()
    thread.join()
    return solver
