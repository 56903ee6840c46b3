"""Completion bounds against what every plan really spends on the layers that were not placed yet."""

from __future__ import annotations

import pytest
from builders import cluster, default_space, device, every_plan, examples, questions, workload
from hypothesis import HealthCheck, given, settings

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem

ROUNDING = 1 + 1e-9


@settings(max_examples=examples(20), suppress_health_check=list(HealthCheck))
@given(questions(layers=(2, 4), batches=(1, 2, 3, 4)))
def test_no_completion_of_any_plan_is_below_the_bounds(question: tuple[Workload, Cluster]) -> None:
    work, place = question
    problem = Problem.of(work, place, "participating", space=default_space(work, place, (1,)))
    bounds, fleet, table = problem.completion, problem.fleet, problem.table
    kind_of = {member: kind for kind, same in enumerate(fleet.types) for member in same}
    for plan in every_plan(problem):
        hosted = 1 if plan.tied == "hosted" else 0
        for split in range(len(plan.stages) + 1):
            code = 0
            for stage in plan.stages[split:]:
                code += sum(fleet.radix[kind_of[place.device_ids.index(name)]] for name in stage.devices)
            forward_s = both_s = load_s = energy_j = 0.0
            for stage in plan.stages[:split]:
                stage_forward_s = stage_backward_s = 0.0
                for replica in stage.replicas:
                    index, layers = place.device_ids.index(replica.device), slice(stage.first_layer, stage.stop_layer)
                    own_forward_s = table.forward_s[layers, index, replica.samples].sum()
                    own_backward_s = table.backward_s[layers, index, replica.samples].sum()
                    stage_forward_s = max(stage_forward_s, own_forward_s)
                    stage_backward_s = max(stage_backward_s, own_backward_s)
                    draw_w = place.devices[index].active_w - place.devices[index].idle_w
                    energy_j += plan.micro_batches * (own_forward_s + own_backward_s) * draw_w
                forward_s += stage_forward_s
                both_s += stage_forward_s + stage_backward_s
                load_s = max(load_s, plan.micro_batches * (stage_forward_s + stage_backward_s))
            cut = plan.stages[split].first_layer if split < len(plan.stages) else len(work.layers)
            if cut == hosted:
                continue  # nothing is left to place

            def rest(by_cut: object, code: int = code, cut: int = cut, hosted: int = hosted) -> float:
                return float(by_cut[code, cut] - by_cut[code, hosted])  # type: ignore[index]

            size = plan.micro_batch
            assert size * rest(bounds.forward_s) <= forward_s * ROUNDING
            assert size * rest(bounds.path_s) <= both_s * ROUNDING
            assert work.batch * rest(bounds.load_s) <= load_s * ROUNDING
            assert work.batch * rest(bounds.energy_j) <= energy_j * ROUNDING + 1e-9
            free = [name for stage in plan.stages[:split] for name in stage.devices]
            assert bounds.idle_w[code] <= min(place.device(name).idle_w for name in free)
            # However a byte is split over senders, the medium, or one of their ports, is held at least so long.
            rates = [place.domains[0].rates_bytes_per_s[name] for name in free]
            together = sum(rates) if place.domains[0].kind == "switch" else max(rates)
            assert bounds.next_byte_s[code] <= 1 / together * ROUNDING


def test_the_load_bound_is_exact_where_devices_differ_by_one_factor() -> None:
    problem = Problem.of(workload(3, batch=1), cluster([device("a", 1e9), device("b", 3e9)]), "participating")
    # F + B = 3 s a layer on a, 1 s on b: together 4/3 layers a second
    assert problem.completion.load_s[0].tolist() == pytest.approx([0, 0.75, 1.5, 2.25])
    assert problem.completion.path_s[0].tolist() == pytest.approx([0, 0.75, 1.5, 2.25])
