"""Groups that follow each other while tokens are generated, one operation for every leg of every group's rounds.

The evaluation adds all rounds up; where speeds change meanwhile each leg has to be played by itself. Stages and media
take the legs in the order that is predicted for a world that stays as it is (:mod:`dora_nb.costs.token_rounds`).
Numbers are those of the evaluation's timeline: ``micro_batch`` is the step times the groups, plus the group.
"""

from __future__ import annotations

from dora_nb.costs.operations import Operation, Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import round_legs, token_chain
from dora_nb.costs.token_rounds import every_leg
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload

#: Kinds of operations that belong to rounds.
ROUNDS = ("decode", "token")


def play_rounds(plan: Plan, workload: Workload, timing: Timing) -> Operations:
    """The operations of a plan with all legs of all rounds, in an order that respects their precedence.

    A leg begins after its group's leg before, the first ones after all passes of the prompt. A stage takes its legs one
    after the other; whose turn it is on the media is not said here.
    """
    prompt = operations_of(Shape.of(plan, workload)._replace(decodes=False, token_groups=1, outputs=False))
    operations, before = list(prompt.operations), list(prompt.predecessors)
    passed = prompt.index[Operation("forward", len(plan.stages) - 1, plan.micro_batches - 1)]
    chain, last_of_group, last_on_stage = token_chain(plan, workload), dict[int, int](), dict[int, int]()
    for going in every_leg(round_legs(plan, workload, timing), plan.token_groups, workload.decode_steps):
        leg = chain[going.leg]
        waits_for = {last_of_group.get(going.group, passed)}
        if leg.kind == "decode" and leg.stage in last_on_stage:
            waits_for.add(last_on_stage[leg.stage])
        last_of_group[going.group] = index = len(operations)
        if leg.kind == "decode":
            last_on_stage[leg.stage] = index
        operations.append(leg._replace(micro_batch=going.step * plan.token_groups + going.group))
        before.append(tuple(sorted(waits_for)))
    if Shape.of(plan, workload).outputs:
        operations.append(Operation("output", len(plan.stages) - 1, 0))
        before.append(tuple(sorted(last_of_group.values())))
    return Operations(tuple(operations), tuple(before))
