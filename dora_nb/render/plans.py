"""One plan in a few lines of text."""

from __future__ import annotations

from dora_nb.domain.plan import Plan
from dora_nb.render import words
from dora_nb.units import counted


def plan_facts(plan: Plan) -> list[str]:
    """How the batch is split, what is predicted, and how good that is proven to be."""
    facts = [words.split_words(plan)]
    if plan.prediction is not None:
        facts.append(f"latency {words.seconds_words(plan.prediction.makespan_s)}")
        facts.extend(filter(None, [words.pace_words(plan, "")]))
        for accounting, counted in words.COUNTED.items():
            facts.append(f"{words.joules_words(plan.prediction.energy_j(accounting))} {counted}")
    if plan.certificate is not None:
        facts.append(f"{plan.certificate.status}, gap {words.gap_words(plan)} to the bound {words.bound_words(plan)}")
    return facts


def plan_summary(plan: Plan) -> str:
    """The same with who runs what."""
    stages = words.describe_stages(plan, [f"layer {index}" for index in range(plan.layer_count)])
    head = f"{plan.label or 'plan'}: {counted(len(plan.stages), 'stage')}"
    return "\n".join([head, "; ".join(plan_facts(plan)), *(f"  {line}" for line in stages)])
