"""What ``--json`` prints, as objects of plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_nb.domain.comparison import Comparison
    from dora_nb.domain.composition import Composition
    from dora_nb.domain.explanation import Explanation
    from dora_nb.domain.plan import Plan
    from dora_nb.domain.plan_set import PlanSet
    from dora_nb.domain.run_record import RunRecord


def plans_facts(plans: PlanSet) -> dict[str, Any]:
    """The answer to a question: every plan, what is proven of the best, and what the plans cover."""
    accounting, certificate = plans.qoe.energy_accounting, plans.best.certificate
    assert certificate is not None, "the best plan carries its certificate"
    return {
        **certificate.model_dump(
            include={"objective", "value", "bound", "unit", "gap", "status", "algorithm", "solver"}
        ),
        "workload": {
            key: getattr(plans.workload, key)
            for key in ("name", "mode", "batch", "sequence", "image_px", "precision", "new_tokens", "requests_per_s")
        },
        "cluster": plans.cluster.name,
        "qoe": plans.qoe.model_dump(),
        "plans": [plan_facts(each, accounting) for each in plans.plans],
        "baselines": [plan_facts(each, accounting) for each in plans.baselines],
        "best": plans.best.label,
        "coverage": plans.coverage
        and {
            "delta": plans.coverage.delta,
            "most_plans": plans.coverage.most_plans,
            "proven": plans.coverage.proven,
        },
        "planning_wall_s": plans.wall_s,
    }


def plan_facts(each: Plan, accounting: Any) -> dict[str, Any]:
    """A plan, what is predicted of it under an accounting of energy, and what is proven."""
    assert each.prediction is not None, "planned plans carry their prediction"
    certificate = each.certificate
    facts: dict[str, Any] = {
        "label": each.label,
        "makespan_s": each.prediction.makespan_s,
        "period_s": each.prediction.period_s,
        "first_token_s": each.prediction.first_token_s,
        "token_s": each.prediction.token_s,
        "energy_j": each.prediction.energy_j(accounting),
        "energy_accounting": accounting,
        "devices": list(each.devices),
        "micro_batch": each.micro_batch,
        "micro_batches": each.micro_batches,
        "tied": each.tied,
        "overlap": each.overlap,
        "chunks": each.chunks,
        "token_groups": each.token_groups,
        "stages": [stage.model_dump() for stage in each.stages],
        "schedule": [transfer.model_dump() for transfer in each.prediction.schedule],
    }
    if certificate is not None:
        facts |= certificate.model_dump()
    return facts


def composition_facts(mix: Composition) -> dict[str, Any]:
    """A mix of plans, how often each is used in every condition, and what is proven."""
    proof = mix.certificate
    return {
        "cluster": mix.cluster.name,
        "qoe": mix.qoe.model_dump(),
        "keep": mix.keep,
        "missed_share": mix.missed_share,
        "window": mix.window,
        **proof.model_dump(include={"objective", "unit", "value", "bound", "gap", "status", "scope", "solver"}),
        "plans": [plan_facts(each, mix.qoe.energy_accounting) for each in mix.plans],
        "conditions": [
            {
                "name": condition.name,
                "probability": condition.probability,
                "weights": list(figures.weights),
                "counts": list(figures.counts),
                "order": list(figures.order),
                "makespan_s": list(figures.makespan_s),
                "energy_j": list(figures.energy_j),
                "mean_s": figures.mean_s,
                "mean_j": figures.mean_j,
                "switch_s": figures.switch_s,
                "missed_share": figures.missed_share,
                "kept": figures.kept,
                "bound": figures.bound,
            }
            for condition, figures in zip(mix.conditions.conditions, mix.figures, strict=True)
        ],
        "expected_s": mix.expected_s,
        "expected_j": mix.expected_j,
        "single": None if mix.single is None else {"label": mix.single.label, "value": mix.single_value},
        "resident_bytes": mix.resident_bytes,
        "usable_bytes": mix.usable_bytes,
        "wall_s": mix.wall_s,
    }


def explanation_facts(explanation: Explanation) -> dict[str, Any]:
    """What more of each limit is worth, or what would have to give."""
    accounting = explanation.qoe.energy_accounting
    facts: dict[str, Any] = {
        "workload": explanation.workload.name,
        "cluster": explanation.cluster.name,
        "qoe": explanation.qoe.model_dump(),
        "feasible": explanation.feasible,
        "solves": explanation.solves,
        "stopped": explanation.stopped,
    }
    if explanation.best is not None:
        margins = [
            each.model_dump(exclude={"plan"})
            | {name: getattr(each, name) for name in ("change", "per_unit", "uncertainty", "proven", "binds")}
            for each in explanation.margins
        ]
        return facts | {"best": plan_facts(explanation.best, accounting), "margins": margins}
    relaxations = [
        {"changes": [change.model_dump() for change in each.changes], "plan": plan_facts(each.plan, accounting)}
        for each in explanation.relaxations
    ]
    ruled_out = [each.model_dump() for each in explanation.ruled_out]
    return facts | {"message": explanation.message, "relaxations": relaxations, "ruled_out": ruled_out}


def comparison_facts(comparison: Comparison) -> dict[str, Any]:
    """A run against its prediction, with the relative error of every part."""
    return {
        **comparison.model_dump(mode="json", exclude={"steps", "stages", "transfers"}),
        "error": comparison.error,
        **{
            name: [each.model_dump(mode="json") | {"error": each.error} for each in parts]
            for name, parts in (
                ("steps", comparison.steps),
                ("stages", comparison.stages),
                ("transfers", comparison.transfers),
            )
        },
    }


def run_facts(record: RunRecord) -> dict[str, Any]:
    """A run next to its prediction, without its events."""
    return {
        **record.model_dump(
            mode="json",
            include={
                "max_abs_diff",
                "differences",
                "accuracy",
                "predicted_s",
                "measured_s",
                "inference_predicted_s",
                "inference_measured_s",
                "predicted_tokens",
                "measured_tokens",
                "predicted_stream",
                "measured_stream",
                "steps",
                "step_s",
                "losses",
                "emulation",
                "ordering",
                "energy",
                "not_metered",
                "environment",
            },
        ),
        "ran": {"layers": len(record.workload.layers), "parameters": record.workload.parameters, "precision": "fp64"},
    }
