"""Explanations and alternatives as text, frames and HTML."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from dora_nb.domain.certificate import Certificate
from dora_nb.domain.explanation import Change, Explanation, MarginalValue, Relaxation, RuledOut
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.render.explanations import alternatives_text, explanation_text, relaxation_words

GB = 1e9

#: A device fewer.
GONE = {"of": "device", "step": -1.0, "unit": "devices", "limit": None, "used": None}

#: Text that would end a tag or an attribute.
NASTY = "<script>alert(\"1\")</script> & 'x'"


def changes(**figures: object) -> Change:
    return Change(**({"limit": "latency", "unit": "s", "asked": 10.0, "needed": 12.0, "impossible": 11.0} | figures))


def margin(best: Plan, **figures: object) -> MarginalValue:
    given = {
        "of": "memory",
        "device": "phone",
        "step": GB,
        "unit": "bytes",
        "limit": 6 * GB,
        "used": 5 * GB,
        "objective": "latency",
        "objective_unit": "s",
        "before": 10.0,
        "before_bound": 9.9,
        "after": 9.0,
        "after_bound": 8.9,
        "plan": best,
    }
    return MarginalValue(**(given | figures))


def explanation(plans: PlanSet, **parts: object) -> Explanation:
    given = {
        "workload": plans.workload,
        "cluster": plans.cluster,
        "qoe": QoE(),
        "best": None,
        "message": "",
        "relaxations": (),
        "ruled_out": (),
        "margins": (),
        "solves": 7,
        "stopped": None,
        "wall_s": 1.5,
    }
    return Explanation(**(given | parts))


@pytest.fixture
def infeasible(plans: PlanSet) -> Explanation:
    memory = changes(limit="memory", device="phone", unit="bytes", asked=6 * GB, needed=8 * GB, impossible=7.9 * GB)
    faster = changes(limit="bandwidth", unit="times", asked=1.0, needed=1.5, impossible=None)
    return explanation(
        plans,
        message="it is too much",
        relaxations=(
            Relaxation(changes=(changes(),), plan=plans.best),
            Relaxation(changes=(memory, changes()), plan=plans.best),
            Relaxation(changes=(faster,), plan=plans.best),
        ),
        ruled_out=(
            RuledOut(limits=(("energy", None),), proven=True),
            RuledOut(limits=(("memory", "hub"),), proven=True),
            RuledOut(limits=(("energy", None), ("memory", "hub")), proven=True),
            RuledOut(limits=(("bandwidth", None),), proven=False),
        ),
    )


@pytest.fixture
def feasible(plans: PlanSet) -> Explanation:
    best = plans.best
    return explanation(
        plans,
        best=best,
        margins=(
            margin(best),
            margin(best, of="bandwidth", device=None, step=1.25e6, unit="bytes/s", limit=None, used=None),
            margin(best, **GONE, after=11.0, after_bound=10.9),
            margin(best, **GONE, device="hub", after=None, after_bound=None, plan=None),
            margin(best, device="tvbox", after=9.95, after_bound=9.9, used=0.0),
            margin(best, device="laptop", before_bound=10.0, after=10.0, after_bound=10.0),
            margin(best, device="minipc", after=None, after_bound=9.0, plan=None),
        ),
        stopped="time limit",
    )


def test_what_two_solves_prove(plans: PlanSet) -> None:
    value = margin(plans.best)
    assert value.change == pytest.approx(-1.0)
    assert value.per_unit == pytest.approx(-1e-9)
    assert value.uncertainty == pytest.approx(0.2)
    assert value.proven == "better"
    assert value.binds
    # The difference is 0.15 s and the two gaps are 0.1 s and 0.05 s.
    assert margin(plans.best, after=9.91, after_bound=9.85).proven == "nothing"
    assert margin(plans.best, after=10.2, after_bound=10.1).proven == "worse"
    assert margin(plans.best, after=10.2, after_bound=9.95).proven == "nothing"
    assert margin(plans.best, after=None, after_bound=None, plan=None).proven == "impossible"


def test_a_relaxation_in_words(infeasible: Explanation) -> None:
    alone, pair, faster = map(relaxation_words, infeasible.relaxations)
    assert alone.startswith("a latency of 12 s instead of 10 s (proven the smallest to within 50 % of the change)")
    assert "2 GB more memory on phone (8 GB usable instead of 6 GB) and a latency of 12 s" in pair
    assert "each proven the smallest to within 50 % of the change next to the others" in pair
    assert faster.startswith("1.5 times the rates of the network (nothing smaller was found, nor proven impossible)")


def test_text_of_an_infeasible_question(infeasible: Explanation) -> None:
    text = " ".join(repr(infeasible).split())
    assert "No plan: it is too much." in text
    assert text.count("It becomes possible with") == 3
    assert "Not enough alone, however much (proven): energy; memory of hub." in text
    assert "(no plan was found): a network 1,000 times as fast." in text
    assert "Of the pairs of them, 1 were tried" in text
    assert max(map(len, repr(infeasible).splitlines())) <= 110
    assert "No change was found" in repr(explanation_without_relaxations(infeasible))


def explanation_without_relaxations(infeasible: Explanation) -> Explanation:
    return Explanation(**(vars(infeasible) | {"relaxations": ()}))


def test_text_of_a_feasible_question(feasible: Explanation) -> None:
    lines = repr(feasible).splitlines()
    assert max(map(len, lines)) <= 110
    row = {line.split("  ")[0]: line for line in lines}
    assert row["1 GB more memory on phone"].endswith("gain: it binds")
    assert "-1 s per GB" in row["1 GB more memory on phone"]
    assert "-100 ms per Mbit/s" in row["10 Mbit/s more for all"]
    assert row["one phone fewer"].endswith("loss")
    assert row["one hub fewer"].endswith("no plan without it")
    assert "none proven (gaps 150 ms)" in row["1 GB more memory on tvbox"]
    assert "none of 6 GB" in row["1 GB more memory on tvbox"]
    assert row["1 GB more memory on laptop"].endswith("no change")
    assert row["1 GB more memory on minipc"].endswith("not decided")
    assert "time limit" in repr(feasible)


def test_a_narrow_screen_has_every_verdict_in_its_line(feasible: Explanation) -> None:
    lines = explanation_text(feasible, 90).splitlines()
    assert max(map(len, lines)) <= 90
    assert all("per unit" not in line for line in lines)
    verdicts = [line for line in lines if re.search(r" (gain|loss|none proven|no change|not feasible)", line)]
    assert len(verdicts) >= 5


def test_frames(feasible: Explanation, infeasible: Explanation) -> None:
    frame = feasible.to_frame()
    assert list(frame["proven"]) == ["better", "better", "worse", "impossible", "nothing", "nothing", "nothing"]
    assert math.isnan(frame["after"][3])
    assert set(frame["unit"]) == {"bytes", "bytes/s", "devices"}
    frame = infeasible.to_frame()
    assert list(frame["relaxation"]) == [1, 2, 2, 3]
    assert list(frame["limit"]) == ["latency", "memory", "latency", "bandwidth"]
    assert frame["makespan_s"].notna().all()


def test_html_is_closed_and_escaped(feasible: Explanation, infeasible: Explanation) -> None:
    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            assert tag not in ("script", "img")
            if tag != "br":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    nasty = Explanation(**(vars(infeasible) | {"message": NASTY}))
    for each in (feasible, infeasible, nasty):
        checker = Checker()
        checker.feed(each._repr_html_())
        checker.close()
        assert not checker.open
    assert "1 GB more memory on phone" in feasible._repr_html_()
    assert "It becomes possible" in infeasible._repr_html_()


def test_alternatives_in_a_line(plans: PlanSet) -> None:
    found = {name: plans.without(name) for name in plans.cluster.device_ids}
    lines = alternatives_text(found)
    assert "without phone:" in lines
    for name, each in found.items():
        assert str(each).startswith(f"without {name}: ")
        assert repr(each) == str(each)
        if each.plan is not None:
            assert isinstance(each.plan.certificate, Certificate)
            assert name not in each.plan.devices
