"""Conditions, and the order in which a composition's plans take turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import cluster

from dora_nb.catalog import load_cluster, load_conditions, names
from dora_nb.domain.composition import evenly, in_runs
from dora_nb.domain.conditions import Condition, Conditions, handover
from dora_nb.errors import InputError, UnknownNameError

#: Which deployment each set of conditions is for.
DEPLOYMENTS = {
    "edge-cluster-day": "edge-cluster",
    "smart-home-evening": "smart-home",
    "traffic-rush-hour": "traffic-analytics",
}


def test_every_set_of_the_catalogue_fits_its_deployment_and_says_where_numbers_are_from() -> None:
    assert set(names("conditions")) == set(DEPLOYMENTS)
    for name, deployment in DEPLOYMENTS.items():
        states = load_conditions(name)
        states.check_fits(load_cluster(deployment))
        assert sum(states.probabilities) == pytest.approx(1)
        assert all(each.sources["probability"].status == "assumed" for each in states.conditions)
        assert states.sources["windows_per_change"].source


def test_a_file_of_the_same_form_loads_and_its_mistakes_are_named(tmp_path: Path) -> None:
    def number(value: float, unit: str = "fraction") -> dict[str, object]:
        return {"value": value, "unit": unit, "status": "assumed", "source": "a test", "note": "a test"}

    path = tmp_path / "mine.json"
    document = {
        "name": "mine",
        "conditions": [
            {"name": "calm", "probability": number(80, "%")},
            {"name": "busy", "probability": number(0.2), "domain_rate_factors": {"net": number(0.4)}},
        ],
    }
    path.write_text(json.dumps(document))
    states = load_conditions(path)
    assert states.probabilities == (0.8, 0.2)
    assert states.conditions[1].rate_factor("net", "a") == 0.4
    assert states.windows_per_change == 10.0
    document["conditions"][1]["domain_rate_factors"]["net"] = number(0.4, "s")  # type: ignore[index]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"conditions\[1\]\.domain_rate_factors\.net"):
        load_conditions(path)
    with pytest.raises(UnknownNameError, match="smart-home-evening"):
        load_conditions("smart-home-evenings")


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([("a", 0.5), ("a", 0.5)], "under a name of its own"),
        ([("a", 0.5), ("b", 0.4)], "add up to 1"),
        ([("a", 1.0), ("b", 0.0)], "greater than 0"),
        ([], "at least 1 item"),
    ],
)
def test_what_are_no_conditions_is_refused(conditions: list[tuple[str, float]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Conditions(conditions=tuple(Condition(name=name, probability=share) for name, share in conditions))


def test_a_change_is_made_while_both_plans_devices_are_there_at_the_lower_rate() -> None:
    place = cluster(3)
    before = Condition(name="x", probability=0.5, absent_devices=("a", "c"), device_rate_factors={"b": 0.5})
    after = Condition(name="y", probability=0.5, absent_devices=("b", "c"), domain_rate_factors={"net": 0.8})
    state = handover(before, after, place)
    assert state.absent_devices == ("c",)
    assert state.rate_factor("net", "a") == 0.8  # only there after
    assert state.rate_factor("net", "b") == 0.5  # only there before
    assert handover(before, before, place).rate_factor("net", "b") == 0.5


def test_even_dispatch_spreads_and_keeps_counts() -> None:
    assert evenly([5, 1, 1]) == (0, 0, 1, 0, 2, 0, 0)  # the example in nginx's own description of the rule
    assert evenly([0, 3]) == (1, 1, 1)
    for counts in ([7, 13], [1, 1, 18], [10, 10], [3, 5, 12]):
        order = evenly(counts)
        assert [order.count(plan) for plan in range(len(counts))] == counts
        for plan, count in enumerate(counts):
            ideal = count / sum(counts)
            for taken in range(1, len(order) + 1):
                assert abs(order[:taken].count(plan) - taken * ideal) < 1.5


def test_runs_start_at_home() -> None:
    assert in_runs([2, 3], home=1) == (1, 1, 1, 0, 0)
    assert in_runs([2, 0, 1], home=0) == (0, 0, 2)
