"""How a plan to serve with is shown."""

from __future__ import annotations

import pytest
from served import two_layers

import dora_nb as dora
from dora_nb.domain.serving import Serving


@pytest.fixture(scope="module")
def serving() -> Serving:
    case = two_layers(bytes_per_s=1e9)
    goal = dora.ServingGoal(requests_per_s=0.5, latency_s=30.0)
    return dora.serve(case.work, case.place, goal, slots=(2,), groups=(1, 2), table=case.table)


def test_the_text_has_what_a_request_sees_and_what_is_proven(serving: Serving) -> None:
    text = repr(serving)
    assert text.startswith("0.5 requests/s on tiny, 2 groups of 2 slots, continuous batching: a 1-1 > b 2-2\n")
    assert f"gap {100 * serving.gap:.2f} % ({serving.status}), 2 plans played" in text
    assert "time to first token" in text
    assert "30 s" in text
    assert "a: computes" in text
    assert "busiest on the network: net" in text
    assert str(serving) == text
    in_waves = serving.model_copy(update={"wave": 3})
    assert "continuous batching in waves of 3: a 1-1 > b 2-2\n" in repr(in_waves)


def test_figures_are_a_few_lines(serving: Serving) -> None:
    first, *others = repr(serving.figures).splitlines()
    assert first == f"Predicted of {serving.figures.requests} requests, 0.5 requests/s"
    assert [line.split(":")[0].strip() for line in others] == [
        "time to first token", "time per token", "latency", "capacity", "a request",
    ]  # fmt: skip
    late = serving.figures.replace(keeps_up=False)
    assert "too few: more and more wait" in repr(late)


def test_the_page_has_the_same(serving: Serving) -> None:
    page = serving._repr_html_()
    assert "time per token" in page
    assert "2 groups of 2 slots" in page
    assert "b: computes" in page
