"""A composition as shares and a ledger of its limits."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from builders import cluster, device, pipeline, workload

from dora_nb.domain.composition import Composition, Keep
from dora_nb.domain.conditions import Condition
from dora_nb.domain.qoe import QoE
from dora_nb.explorer.html.mix import mix_html
from dora_nb.explorer.views.mix import MixView, mix_view
from dora_nb.planning.composition.compose import compose


def made(qoe: QoE, keep: Keep = "mean", missed_share: float = 0.0) -> Composition:
    """Half on a device of 8 s and 16 J, half on one of 4 s and 40 J; the second is away in one condition of two."""
    work = workload(2, mode="inference", batch=4)
    place = cluster([device("a", active_w=2.0), device("b", 2e9, active_w=10.0)])
    states = [
        Condition(name="calm & <bright>", probability=0.75),
        Condition(name="b away", probability=0.25, absent_devices=("b",)),
    ]
    plans = [pipeline((0, 2, {name: 4})).replace(label=f"all on {name}") for name in ("a", "b")]
    options = {"missed_share": missed_share} if keep == "tail" else {}
    return compose(work, place, qoe, states, restrict=plans, window=10, keep=keep, **options)


@pytest.fixture(scope="module")
def mix() -> Composition:
    return made(QoE(objective="latency", energy_j=30.0))


@pytest.fixture(scope="module")
def view(mix: Composition) -> MixView:
    return mix_view(mix)


def test_shares_are_the_compositions(mix: Composition, view: MixView) -> None:
    for shown, figures in zip(view.conditions, mix.figures, strict=True):
        assert shown.shares == figures.weights
        assert sum(shown.counts) == view.window
        assert (shown.mean_s, shown.mean_j, shown.kept) == (figures.mean_s, figures.mean_j, figures.kept)
    assert sum(plan.share for plan in view.plans) == pytest.approx(1.0)
    calm, away = mix.figures
    assert view.plans[0].share == pytest.approx(0.75 * calm.weights[0] + 0.25 * away.weights[0])
    assert view.mean_s == pytest.approx(mix.certificate.value)


def test_the_ledger_says_how_far_from_the_limit(mix: Composition, view: MixView) -> None:
    calm, away = view.conditions
    (energy,) = calm.ledger
    assert (energy.name, energy.unit, energy.limit) == ("energy", "J", 30.0)
    assert energy.margin == pytest.approx(30.0 - mix.figures[0].mean_j)
    assert energy.said.endswith("below the limit")
    assert away.ledger[0].value == pytest.approx(16.0)
    assert away.ledger[0].said == "16 J, 14 J below the limit"
    assert view.kept_share == 1.0


def test_at_a_limit_and_beyond_it(mix: Composition) -> None:
    at = Composition(**(vars(mix) | {"qoe": QoE(objective="latency", energy_j=mix.figures[1].mean_j)}))
    assert mix_view(at).conditions[1].ledger[0].said == "16 J, at the limit"
    beyond = Composition(**(vars(mix) | {"qoe": QoE(objective="latency", latency_s=5.0, energy_j=30.0)}))
    latency, energy = mix_view(beyond).conditions[1].ledger
    assert (latency.kept, energy.kept) == (False, True)
    assert latency.said == "8 s, 3 s above the limit"


def test_tails_are_shares_of_requests() -> None:
    shown = mix_view(made(QoE(objective="energy", latency_s=8.5), "tail", 0.1))
    (entry,) = shown.conditions[0].ledger
    assert (entry.name, entry.limit, entry.kept) == ("over", 0.1, True)
    assert entry.said.endswith("over, 10 % allowed")
    assert "Over a limit" in mix_html(shown)


def test_without_limits_there_is_no_ledger() -> None:
    shown = mix_view(made(QoE(objective="energy")))
    assert all(each.ledger == () for each in shown.conditions)
    assert "The limits are kept" not in mix_html(shown)


def test_the_html_is_whole_and_escaped(view: MixView) -> None:
    html = mix_html(view)
    ElementTree.fromstring(html.replace("<br>", "<br/>"))
    assert "calm &amp; &lt;bright&gt;" in html
    assert "<svg" in html
    assert "all conditions" in html
    assert "The limits are kept in every condition." in html


def test_limits_that_are_not_kept_are_said(view: MixView) -> None:
    calm, away = view.conditions
    missed = view.replace(conditions=(calm.replace(kept=False), away), kept_share=0.25)
    assert "The limits are kept in conditions that 25 % of the requests meet." in mix_html(missed)
