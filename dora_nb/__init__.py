"""Plan, look at and run neural networks split over unlike edge devices that share a network.

::

    import dora_nb as dora

    workload = dora.load_workload("qwen3-0.6b", mode="training", batch=16)
    cluster = dora.load_cluster("smart-home")
    plans = dora.plan(workload, cluster, dora.QoE(latency_s=30, objective="energy"))
    run = dora.execute(plans.best, workload, cluster)

Names are imported when they are first used, so ``import dora_nb`` is quick and needs neither a solver nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_nb.adaptation import Adapter, Clairvoyant, Delayed, planner_for
    from dora_nb.catalog import (
        load_cluster,
        load_conditions,
        load_device,
        load_dynamics,
        load_streams,
        load_workload,
    )
    from dora_nb.costs.comparison import compare
    from dora_nb.costs.evaluate import evaluate
    from dora_nb.costs.measured import measured_table
    from dora_nb.costs.table import CostTable, cost_table
    from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
    from dora_nb.domain.cluster_file import save_cluster
    from dora_nb.domain.comparison import Comparison
    from dora_nb.domain.composition import Composition
    from dora_nb.domain.conditions import Condition, Conditions
    from dora_nb.domain.layer import Layer
    from dora_nb.domain.placement import Placement
    from dora_nb.domain.plan import Plan
    from dora_nb.domain.plan_file import load_plan, save_plan
    from dora_nb.domain.plan_set import PlanSet
    from dora_nb.domain.problem import MeasuredProblem
    from dora_nb.domain.problem_file import load_problem, save_problem
    from dora_nb.domain.profile import Profile
    from dora_nb.domain.profile_file import load_profile, save_profile
    from dora_nb.domain.qoe import QoE
    from dora_nb.domain.run_file import load_run, save_run
    from dora_nb.domain.run_record import RunRecord
    from dora_nb.domain.serving import Serving, ServingGoal
    from dora_nb.domain.serving_file import load_serving, save_serving
    from dora_nb.domain.sharing import Sharing
    from dora_nb.domain.sharing_file import load_sharing, save_sharing
    from dora_nb.domain.solver_comparison import SolverComparison
    from dora_nb.domain.stream import Stream
    from dora_nb.domain.workload import Workload
    from dora_nb.errors import DoraError, InfeasibleError, InputError
    from dora_nb.executor.control.listener import Listener
    from dora_nb.executor.control.tls import Tls
    from dora_nb.executor.launch import execute
    from dora_nb.executor.measuring.accuracy import measure_accuracy
    from dora_nb.executor.measuring.profiler import profile
    from dora_nb.executor.measuring.survey import probe_network
    from dora_nb.executor.pool import WorkerPool
    from dora_nb.executor.serving import serve_requests
    from dora_nb.executor.tasks.task import Optimizer, Source
    from dora_nb.explorer import explore
    from dora_nb.exporting import Exported, export
    from dora_nb.formulation.space import SearchSpace
    from dora_nb.planning.composition.compose import compose
    from dora_nb.planning.exact.compare_solvers import compare_solvers
    from dora_nb.planning.explanation.alternatives import alternatives
    from dora_nb.planning.explanation.explain import explain
    from dora_nb.planning.orders import order_transfers
    from dora_nb.planning.pace import fastest_stream
    from dora_nb.planning.placement.place import place
    from dora_nb.planning.plan import plan
    from dora_nb.planning.planner import Planner
    from dora_nb.planning.serving.serve import serve
    from dora_nb.planning.sharing.share import share
    from dora_nb.render.timeline import timeline_svg
    from dora_nb.reproduction import reproduce
    from dora_nb.simulation import Trace, World, load_trace, play_stream, save_trace, simulate
    from dora_nb.simulation.generators import absences, visits, wander
    from dora_nb.solvers import SolverOptions
    from dora_nb.sweeps import sweep

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adaptation",
    "Clairvoyant": "adaptation",
    "Cluster": "domain.cluster",
    "Comparison": "domain.comparison",
    "Composition": "domain.composition",
    "Condition": "domain.conditions",
    "Conditions": "domain.conditions",
    "ContentionDomain": "domain.cluster",
    "CostTable": "costs",
    "Delayed": "adaptation",
    "Device": "domain.cluster",
    "DoraError": "errors",
    "Exported": "exporting",
    "InfeasibleError": "errors",
    "InputError": "errors",
    "Layer": "domain.layer",
    "Listener": "executor.control.listener",
    "MeasuredProblem": "domain.problem",
    "Optimizer": "executor.tasks.task",
    "Placement": "domain.placement",
    "Plan": "domain.plan",
    "PlanSet": "domain.plan_set",
    "Planner": "planning.planner",
    "Profile": "domain.profile",
    "QoE": "domain.qoe",
    "RunRecord": "domain.run_record",
    "SearchSpace": "formulation.space",
    "SolverComparison": "domain.solver_comparison",
    "SolverOptions": "solvers",
    "Source": "executor.tasks.task",
    "Serving": "domain.serving",
    "ServingGoal": "domain.serving",
    "Sharing": "domain.sharing",
    "Stream": "domain.stream",
    "Tls": "executor.control.tls",
    "Trace": "simulation",
    "WorkerPool": "executor.pool",
    "Workload": "domain.workload",
    "World": "simulation",
    "absences": "simulation.generators",
    "alternatives": "planning.explanation.alternatives",
    "compare": "costs.comparison",
    "compare_solvers": "planning.exact.compare_solvers",
    "compose": "planning.composition.compose",
    "cost_table": "costs",
    "evaluate": "costs",
    "execute": "executor.launch",
    "explain": "planning.explanation.explain",
    "export": "exporting",
    "explore": "explorer",
    "fastest_stream": "planning.pace",
    "load_cluster": "catalog",
    "load_conditions": "catalog",
    "load_device": "catalog",
    "load_dynamics": "catalog",
    "load_plan": "domain.plan_file",
    "load_problem": "domain.problem_file",
    "load_profile": "domain.profile_file",
    "load_run": "domain.run_file",
    "load_serving": "domain.serving_file",
    "load_sharing": "domain.sharing_file",
    "load_streams": "catalog",
    "load_trace": "simulation",
    "load_workload": "catalog",
    "measure_accuracy": "executor.measuring.accuracy",
    "measured_table": "costs.measured",
    "order_transfers": "planning.orders",
    "place": "planning.placement.place",
    "plan": "planning.plan",
    "planner_for": "adaptation",
    "play_stream": "simulation",
    "probe_network": "executor.measuring.survey",
    "profile": "executor.measuring.profiler",
    "reproduce": "reproduction",
    "save_cluster": "domain.cluster_file",
    "save_plan": "domain.plan_file",
    "save_problem": "domain.problem_file",
    "save_profile": "domain.profile_file",
    "save_run": "domain.run_file",
    "save_serving": "domain.serving_file",
    "save_sharing": "domain.sharing_file",
    "save_trace": "simulation",
    "serve": "planning.serving.serve",
    "serve_requests": "executor.serving",
    "share": "planning.sharing.share",
    "simulate": "simulation",
    "sweep": "sweeps",
    "timeline_svg": "render.timeline",
    "visits": "simulation.generators",
    "wander": "simulation.generators",
}

__all__ = [
    "Adapter",
    "Clairvoyant",
    "Cluster",
    "Comparison",
    "Composition",
    "Condition",
    "Conditions",
    "ContentionDomain",
    "CostTable",
    "Delayed",
    "Device",
    "DoraError",
    "Exported",
    "InfeasibleError",
    "InputError",
    "Layer",
    "Listener",
    "MeasuredProblem",
    "Optimizer",
    "Placement",
    "Plan",
    "PlanSet",
    "Planner",
    "Profile",
    "QoE",
    "RunRecord",
    "SearchSpace",
    "Serving",
    "ServingGoal",
    "Sharing",
    "SolverComparison",
    "SolverOptions",
    "Source",
    "Stream",
    "Tls",
    "Trace",
    "WorkerPool",
    "Workload",
    "World",
    "absences",
    "alternatives",
    "compare",
    "compare_solvers",
    "compose",
    "cost_table",
    "evaluate",
    "execute",
    "explain",
    "explore",
    "export",
    "fastest_stream",
    "load_cluster",
    "load_conditions",
    "load_device",
    "load_dynamics",
    "load_plan",
    "load_problem",
    "load_profile",
    "load_run",
    "load_serving",
    "load_sharing",
    "load_streams",
    "load_trace",
    "load_workload",
    "measure_accuracy",
    "measured_table",
    "order_transfers",
    "place",
    "plan",
    "planner_for",
    "play_stream",
    "probe_network",
    "profile",
    "reproduce",
    "save_cluster",
    "save_plan",
    "save_problem",
    "save_profile",
    "save_run",
    "save_serving",
    "save_sharing",
    "save_trace",
    "serve",
    "serve_requests",
    "share",
    "simulate",
    "sweep",
    "timeline_svg",
    "visits",
    "wander",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dora_nb' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dora_nb.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
