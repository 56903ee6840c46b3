"""Whether transfers leave in the plan's order or as ready: asked for, or the faster one as predicted."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.run_record import Ordering
from dora_nb.domain.transfer import Transfer
from dora_nb.executor import execute, rehearsal
from dora_nb.executor.session import Session

TWO = [(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)]
TURNED = [(0, 2, [(1, 4)], 2, None), (2, 6, [(0, 4)], 1, None)]


class Then:
    """Runs one plan for two steps, and another one from then on."""

    def __init__(self, first, second):
        self.plans, self.steps = (first, second), 0

    def next_plan(self, now_s, present):
        return self.plans[self.steps > 2]  # the batch before training is one more

    def observe(self, report):
        self.steps += 1


@pytest.fixture
def question(lab):
    workload = lab.workload(lab.architectures["untied"], "training", 8)
    plans = [lab.plan(stages, 2) for stages in (TWO, TURNED)]
    operations = [operations_of(Shape.of(plan, workload)) for plan in plans]
    transfers = [[each.operations[index] for index in each.transfers] for each in operations]
    return workload, [
        plan.replace(transfer_order=tuple(Transfer(kind=kind, stage=at, micro_batch=m) for kind, at, m, _ in own))
        for plan, own in zip(plans, transfers, strict=True)
    ]


@contextmanager
def predicting(monkeypatch, factor):
    """Predict so many times the seconds of a plan's order."""

    def other(plan, *arguments, predict=rehearsal.predict, **options):
        predicted = predict(plan, *arguments, **options)
        times = factor(plan) if plan.transfer_order else 1
        return predicted.replace(makespan_s=times * predicted.makespan_s)

    with monkeypatch.context() as patched:
        patched.setattr(rehearsal, "predict", other)
        yield


@pytest.mark.parametrize("in_order", [True, False])
def test_what_is_asked_for_is_done_and_alone_predicted(lab, pool, question, in_order):
    workload, plans = question
    options = {"steps": 1, "emulate": "nothing", "workers": pool}
    record = execute(plans[0], workload, lab.cluster([1e12] * 2), in_order=in_order, **options).wait()
    assert record.ordering == Ordering(in_order=in_order, asked=True)
    assert record.ordering.text == ("in the plan's order, as asked" if in_order else "as ready, as asked")


def test_every_plan_goes_the_way_that_is_predicted_to_be_faster(lab, pool, question, monkeypatch):
    """The first one in its order, the second one as ready; training equals one process through the changes."""
    workload, plans = question
    prepared, prepare = [], Session.prepare

    def noted(session, plan, **options):
        prepared.append((plan.stages[0].devices[0], session.network.in_order))
        prepare(session, plan, **options)

    monkeypatch.setattr(Session, "prepare", noted)
    with predicting(monkeypatch, lambda plan: 1 / 3 if plan.stages[0].devices == ("d0",) else 3):
        run = execute(
            plans[0],
            workload,
            lab.cluster([1e12] * 2),
            steps=4,
            controller=Then(*plans),
            plans=plans[1:],
            emulate="nothing",
            workers=pool,
        )
        record = run.wait()
    # As no network is imitated nothing is ordered at first; whoever goes another way than before is prepared again.
    assert prepared == [("d0", False), ("d0", True), ("d1", True), ("d1", False)]
    ordering = record.ordering
    assert (ordering.in_order, ordering.asked) == (True, False)
    assert ordering.predicted_in_order_s == record.predicted_s < ordering.predicted_as_ready_s
    told = [line for line in run.lines if line.startswith("transfers go")]
    assert ["as ready: predicted" in line for line in told] == [False, True]
    assert told[0] == f"transfers go {ordering.text}"
    assert ordering.text.startswith("in the plan's order: predicted")
    pairs = zip(record.losses, record.reference_losses, strict=True)
    assert all(abs(ours - one) <= 1e-12 * abs(one) for ours, one in pairs)
    assert record.differences.parameters <= 1e-10


def test_without_an_order_there_is_no_choice(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "inference", 8)
    for stages, expected in ((TWO, Ordering(in_order=False, asked=False)), ([(0, 6, [(0, 4)], 1, None)], None)):
        plan, cluster = lab.plan(stages, 2), lab.cluster([1e12] * 2)
        record = execute(plan, workload, cluster, steps=1, emulate="nothing", workers=pool).wait()
        assert record.ordering == expected
