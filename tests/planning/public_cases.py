"""Public planners' own cases as problem files, and our answers as plans that the cases' evaluator scores.

A translator only writes what a family's file says into a problem of :mod:`dora_nb.domain.problem`; the planner knows
no family. ``python -m tests.planning.public_cases CASE.json`` prints our value, the peers' values, the times of both
and the evaluator's score.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dora_nb.domain.placement import Placement
from dora_nb.domain.problem import (
    DeviceType,
    Execution,
    MeasuredLayer,
    MeasuredProblem,
    Tensor,
    Way,
)
from dora_nb.domain.problem_file import load_problem, save_problem
from dora_nb.errors import InfeasibleError
from dora_nb.planning.placement.place import place

CASES = Path(__file__).parents[3] / "shared" / "cases"

Case = dict[str, Any]


# ---------------------------------------------------------------------- PipeEdge


def pipeedge_problem(case: Case, contiguous: bool) -> MeasuredProblem:
    """A chain on unlike devices; links beside computing; an input and an output buffer more for what is transferred."""
    count = len(case["layers"])
    types = _alike(case["devices"], ("mem_bytes", "bandwidth_Bps", "time_s"))
    tensors = [Tensor(consumers=("0",), bytes=case["input_bytes"])]
    for index, layer in enumerate(case["layers"]):
        behind = (str(index + 1),) if index + 1 < count else ()
        tensors.append(Tensor(producer=str(index), consumers=behind, bytes=layer["out_bytes"]))
    return MeasuredProblem(
        name=case["name"],
        layers=tuple(
            MeasuredLayer(
                name=str(index),
                memory_bytes=layer["mem_bytes"],
                time_s={str(first): case["devices"][first]["time_s"][index] for first in types},
            )
            for index, layer in enumerate(case["layers"])
        ),
        tensors=tuple(tensors),
        devices=tuple(
            DeviceType(
                type=str(first),
                count=len(alike),
                # Strictly less than a device's memory is at most the number just below.
                memory_bytes=math.nextafter(case["devices"][first]["mem_bytes"], 0.0),
                bytes_per_s=case["devices"][first]["bandwidth_Bps"],
            )
            for first, alike in types.items()
        ),
        execution=Execution(transfers="link", overlap="duplex", input_copies=1, receive_copies=2, output_copies=3),
    )


def pipeedge_plan(case: Case, answer: Placement) -> Case:
    """[device, first layer, last layer] of every stage."""
    free = {
        str(first): list(alike)
        for first, alike in _alike(case["devices"], ("mem_bytes", "bandwidth_Bps", "time_s")).items()
    }
    return {
        "stages": [
            [free[stage.device].pop(0), min(map(int, stage.layers)), max(map(int, stage.layers))]
            for stage in answer.stages
        ]
    }


# ---------------------------------------------------------------------- PipeDream


def pipedream_problem(case: Case, contiguous: bool) -> MeasuredProblem:
    """A chain on equal devices with replicas; forward and backward are one time; transfers beside computing."""
    count = len(case["layers"])
    return MeasuredProblem(
        name=case["name"],
        layers=tuple(
            MeasuredLayer(
                name=str(index),
                # Differences of measured sums: some are a rounding below nothing.
                time_s={"device": max(layer["fwd_s"] + layer["bwd_s"], 0.0)},
                parameter_bytes=layer["param_bytes"],
            )
            for index, layer in enumerate(case["layers"])
        ),
        tensors=tuple(
            Tensor(producer=str(index), consumers=(str(index + 1),), bytes=layer["out_bytes"])
            for index, layer in enumerate(case["layers"][: count - 1])
        ),
        devices=(DeviceType(type="device", count=case["devices"]["count"], bytes_per_s=case["bandwidth_Bps"]),),
        execution=Execution(
            transfers="both-ends",
            overlap="duplex",
            first_stage_sends=False,
            crossings=2,
            most_replicas=None,
            all_reduce_passes=4,
        ),
    )


def pipedream_plan(case: Case, answer: Placement) -> Case:
    """[first layer, last layer, replicas] of every stage."""
    return {
        "stages": [
            [min(map(int, stage.layers)), max(map(int, stage.layers)), stage.replicas] for stage in answer.stages
        ]
    }


# ---------------------------------------------------------------------- dnn-partitioning


def dag_problem(case: Case, contiguous: bool) -> MeasuredProblem:
    """A graph on CPUs that pay for no transfer and accelerators that pay at both ends, on top of computing."""
    users: dict[int, list[str]] = {}
    seconds: dict[int, float] = {}
    for source, target, cost in case["edges"]:
        users.setdefault(source, []).append(str(target))
        seconds[source] = cost
    types = _alike(case["devices"], ("kind", "mem_bytes"))
    kinds = {str(first): case["devices"][first]["kind"] for first in types}
    return MeasuredProblem(
        name=case["name"],
        layers=tuple(
            MeasuredLayer(
                name=str(layer["id"]),
                time_s={
                    name: layer["cpu_time"] if kind == "cpu" else layer["acc_time"]
                    for name, kind in kinds.items()
                    if kind == "cpu" or layer["acc_ok"]
                },
                memory_bytes=layer["mem_bytes"],
                backward=layer["bwd"],
                group=None if layer["group"] is None else str(layer["group"]),
            )
            for layer in case["layers"]
        ),
        tensors=tuple(
            Tensor(producer=str(source), consumers=tuple(dict.fromkeys(targets)), transfer_s=seconds[source])
            for source, targets in users.items()
        ),
        devices=tuple(
            DeviceType(
                type=str(first),
                count=len(alike),
                memory_bytes=case["devices"][first]["mem_bytes"],
                bytes_per_s=None if kinds[str(first)] == "cpu" else 1.0,  # any rate: tensors have seconds, no bytes
            )
            for first, alike in types.items()
        ),
        execution=Execution(stages="contiguous" if contiguous else "any"),
    )


def dag_plan(case: Case, answer: Placement) -> Case:
    """The device of every layer."""
    free = {str(first): list(alike) for first, alike in _alike(case["devices"], ("kind", "mem_bytes")).items()}
    assign: dict[str, int] = {}
    for stage in answer.stages:
        device = free[stage.device].pop(0)
        assign |= dict.fromkeys(stage.layers, device)
    return {"assign": assign}


# ---------------------------------------------------------------------- Piper


def piper_problem(case: Case, contiguous: bool) -> MeasuredProblem:
    """A graph on equal devices with replicas, shards and recomputation; an edge is a tensor."""

    def way(shards: str, mode: Case) -> Case:
        more = {str(other): extra for key in ("sync_fw", "sync_bw") for other, extra in mode.get(key, {}).items()}
        return {
            "way": mode["id"],
            "shards": int(shards),
            "time_s": {"device": mode["time_s"]},
            "memory_bytes": mode["mem_b"],
            "in_flight_bytes": mode["mem_a"],
            "parameter_bytes": mode["param_bytes"],
            "more_bytes": {other: extra for other, extra in more.items() if extra},
        }

    layers = []
    for layer in case["layers"]:
        first, *others = [way(shards, mode) for shards, modes in layer["modes"].items() for mode in modes]
        layers.append(MeasuredLayer(name=str(layer["id"]), alternatives=tuple(Way(**each) for each in others), **first))
    return MeasuredProblem(
        name=case["name"],
        layers=tuple(layers),
        tensors=tuple(Tensor(producer=str(a), consumers=(str(b),), bytes=size) for a, b, size in case["edges"]),
        devices=(
            DeviceType(
                type="device",
                count=case["devices"]["count"],
                memory_bytes=case["devices"]["mem_bytes"],
                bytes_per_s=case["bandwidth_Bps"],
            ),
        ),
        execution=Execution(
            crossings=2,
            most_replicas=None,
            micro_batches=case["microbatches"],
            all_reduce_passes=4,
            in_flight="pipeline",
        ),
    )


def piper_plan(case: Case, answer: Placement) -> Case:
    """Layers, replicas, shards and ways of every stage."""
    plain = {str(layer["id"]): next(iter(layer["modes"].values()))[0]["id"] for layer in case["layers"]}
    return {
        "stages": [
            {
                "nodes": [int(name) for name in stage.layers],
                "d": stage.replicas,
                "t": stage.shards,
                "tmpc": {name: stage.ways.get(name, plain[name]) for name in stage.layers},
            }
            for stage in answer.stages
        ]
    }


# ---------------------------------------------------------------------- any of them

FAMILIES: dict[str, tuple[Callable[[Case, bool], MeasuredProblem], Callable[[Case, Placement], Case]]] = {
    "pipeedge": (pipeedge_problem, pipeedge_plan),
    "pipedream_chain": (pipedream_problem, pipedream_plan),
    "dag_maxload": (dag_problem, dag_plan),
    "piper_tps": (piper_problem, piper_plan),
}


def _alike(devices: list[Case], fields: tuple[str, ...]) -> dict[int, list[int]]:
    """Positions of devices with equal figures, by the first of them."""
    by_figures: dict[str, list[int]] = {}
    for index, device in enumerate(devices):
        by_figures.setdefault(json.dumps([device[field] for field in fields]), []).append(index)
    return {alike[0]: alike for alike in by_figures.values()}


def score(case_path: Path, plan: Case) -> Case:
    """What the cases' own evaluator says of a plan."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        evaluator = case_path.parent / "evaluate.py"
        if not evaluator.is_file():
            evaluator = CASES / "evaluate.py"
        command = [sys.executable, str(evaluator), str(case_path), file.name]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    scored: Case = json.loads(ran.stdout)
    return scored


def answer_case(case: Case, contiguous: bool, **options: Any) -> tuple[Placement, Case]:
    """Our placement of a case, through a problem file, and the plan it is in the case's own words."""
    write, read = FAMILIES[case["family"]]
    with tempfile.TemporaryDirectory() as folder:
        problem = load_problem(save_problem(Path(folder) / "problem.json", write(case, contiguous)))
    answer = place(problem, **options)
    plan = read(case, answer)
    if case["family"] == "dag_maxload":
        plan["contiguous"] = contiguous
    return answer, plan


def is_contiguous(case: Case, reference: Case) -> bool:
    """Whether a reference's stages had to be contiguous."""
    return bool((reference.get("plan") or {}).get("contiguous", case.get("contiguous", True)))


#: What is good enough for any sets, where the peers' programs were run with a gap of 1 %.
GAP_OF_ANY_SETS = 1e-3


def patience_s(case: Case) -> float:
    """Seconds for any sets: as long as the fastest peer took for them, at least one."""
    peers = [each.get("plan_s") for each in case["references"] if not is_contiguous(case, each)]
    return max(1.0, min((seconds for seconds in peers if seconds is not None), default=60.0))


def report(path: Path, gap: float = 1e-4, time_limit_s: float = 60.0) -> Case:
    """Our value, the peers' values and both times, for contiguous stages and, where a peer has them, any sets."""
    case = json.loads(path.read_text())
    runs = []
    kinds = [True] if case.get("contiguous", True) else []
    if any(not is_contiguous(case, reference) for reference in case["references"]) or not kinds:
        kinds.append(False)
    for contiguous in kinds:
        asked, limit_s = (gap, time_limit_s) if contiguous else (max(gap, GAP_OF_ANY_SETS), patience_s(case))
        peers = [
            {key: reference.get(key) for key in ("planner", "objective", "plan_s", "bound", "infeasible")}
            for reference in case["references"]
            if is_contiguous(case, reference) == contiguous
        ]
        try:
            answer, plan = answer_case(case, contiguous, gap=asked, time_limit_s=min(limit_s, time_limit_s))
        except InfeasibleError as error:
            runs.append(
                {"contiguous": contiguous, "value": None, "plan_s": None, "infeasible": str(error), "peers": peers}
            )
            continue
        runs.append(
            {
                "contiguous": contiguous,
                "value": answer.value_s,
                "bound": answer.bound_s,
                "gap": answer.gap,
                "plan_s": answer.wall_s,
                "scope": answer.scope,
                "method": answer.method,
                "evaluator": score(path, plan),
                "peers": peers,
                "plan": plan,
            }
        )
    best = runs[0]
    known = [each["objective"] for each in best["peers"] if each["objective"] is not None]
    return {
        "case": case["name"],
        "family": case["family"],
        "value": best["value"],
        "peer_value": min(known, default=None),
        "plan_s": best["plan_s"],
        "peer_plan_s": min((each["plan_s"] for each in best["peers"] if each["plan_s"] is not None), default=None),
        "runs": runs,
    }


def main() -> None:
    """Print the report of the case given as the argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=Path)
    parser.add_argument("--gap", type=float, default=1e-4)
    parser.add_argument("--time-limit-s", type=float, default=60.0)
    given = parser.parse_args()
    family = json.loads(given.case.read_text())["family"]
    if family not in FAMILIES:
        parser.error(
            f"{given.case}: cases of the family {family!r} are not translated; there are {', '.join(FAMILIES)}"
        )
    print(json.dumps(report(given.case.resolve(), gap=given.gap, time_limit_s=given.time_limit_s), indent=1))


if __name__ == "__main__":
    main()
