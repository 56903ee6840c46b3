"""Requests that want tokens: what joining at token boundaries gains, and how long planning takes.

``pytest tests/benchmarks/test_serving.py -o addopts='--import-mode=importlib' -s``

64 tokens of Qwen3-0.6B after prompts of 128, in the smart home. The first figures are of one plan each, the laptop with
eight slots, under either batching; requests arrive evenly spaced, or at random (Poisson, seed 0), 400 of them. The last
ones are the largest rates that were found on all clusters, with requests that join at once, in waves as well, or with
either batching, and those within limits of so many times what a request alone takes. Of these, requests/s of
Qwen3-0.6B: the largest capacity of plans that keep the limits for one request (the bound that does not know what limits
cost); bound and largest found with continuous batching alone, before prompts in turn were in the bound; and both now,
with either batching:

===================  =========================  ========  =====  =====  =====  =====
                                                          before        now
                                                          ------------  ------------
cluster              limits                     capacity  bound  found  bound  found
===================  =========================  ========  =====  =====  =====  =====
smart-home           first token x 2                2.28   2.28   1.04   1.56   1.04
smart-home           token x 1.5                    2.09   0.79   0.54   1.51   0.88
smart-home           latency x 2                    2.28   1.40   0.77   1.40   0.77
smart-home           x 3, x 2 and x 2.5             2.28   1.10   0.71   0.99   0.71
wired-home           first token x 2                2.28   2.28   0.98   1.61   1.06
wired-home           token x 1.5                    2.09   0.76   0.54   1.51   0.88
wired-home           latency x 2                    2.28   1.40   0.77   1.40   0.77
wired-home           x 3, x 2 and x 2.5             2.28   1.10   0.71   0.99   0.71
edge-cluster         first token x 2                3.02   3.02   0.48   3.02   0.48
edge-cluster         token x 1.5                    3.21   3.02   2.97   3.11   3.01
edge-cluster         latency x 2                    3.42   3.11   2.96   3.11   2.96
edge-cluster         x 3, x 2 and x 2.5             3.21   3.21   2.90   3.21   2.90
traffic-analytics    first token x 2                8.06   8.06   5.07   7.53   5.29
traffic-analytics    token x 1.5                    8.06   8.06   5.01   8.06   5.00
traffic-analytics    latency x 2                    8.06   8.06   5.65   8.06   5.65
traffic-analytics    x 3, x 2 and x 2.5             8.06   8.06   4.30   8.06   4.30
===================  =========================  ========  =====  =====  =====  =====

Within 1.5 times the token what is found at home is static batching. Waves of several and larger batches are impossible
within twice the first token: the first request would wait too long for the others. On the edge cluster the bound stays
that of capacity there: a request has no time to wait for a round, but if all came in step with rounds none would have
to. On the last cluster prompts are short, and it is stages that limit the rate. Bounds took 0.2 to 13 s of CPU; what
was found now had 7 to 40 s of CPU, before up to 67 s.

Seconds of CPU in the smart home, with continuous batching alone and with either: latency at 0.2 requests/s 1.0 (the
first call of the process) and 0.4, energy at 0.4 within 10 s 16.4 and 15.7, energy at 0.4 without limits 0.9 (19.5 J)
and 0.4 (18.9 J, static).
"""

from __future__ import annotations

import time
from typing import Any

import pytest

import dora_nb as dora
from dora_nb.costs.serving.rounds import evenly_spaced
from dora_nb.costs.serving.service import serving_plan
from dora_nb.costs.table import cost_table
from dora_nb.domain.serving import Batching
from dora_nb.formulation.serving.chains import Chains
from dora_nb.simulation.serving import play, poisson_arrivals

REQUEST = dora.load_workload("qwen3-0.6b", mode="generate", batch=1, new_tokens=64)
HOME = dora.load_cluster("smart-home")


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("arrivals", [evenly_spaced, poisson_arrivals])
def test_continuous_and_static_batching(rate: float, arrivals: object) -> None:
    assert callable(arrivals)
    plan, mean_s = serving_plan([(0, len(REQUEST.layers), "laptop")], 8, 1), {}
    batchings: tuple[Batching, ...] = ("continuous", "static")
    for batching in batchings:
        run = play(plan, REQUEST, HOME, arrivals(rate, 400), batching=batching)
        mean_s[batching] = float(run.latency_s.mean())
        print(f"\n{rate:g} requests/s, {arrivals.__name__}, {batching}: {run}, mean {mean_s[batching]:.3g} s", end="")
    assert mean_s["continuous"] < mean_s["static"]


@pytest.mark.parametrize(
    "goal",
    [
        dora.ServingGoal(requests_per_s=0.2),
        dora.ServingGoal(requests_per_s=0.4),
        dora.ServingGoal(objective="energy", requests_per_s=0.4, latency_s=10.0),
        dora.ServingGoal(objective="rate"),
        dora.ServingGoal(objective="rate", first_token_s=2.0, latency_s=10.0),
    ],
    ids=["latency at 0.2", "latency at 0.4", "energy at 0.4", "rate", "rate within limits"],
)
@pytest.mark.parametrize("batching", [None, "continuous", "static"])
def test_planning(goal: dora.ServingGoal, batching: Batching | None) -> None:
    started = time.process_time()
    try:
        answer = dora.serve(REQUEST, HOME, goal, batching=batching, time_limit_s=30.0)
    except dora.errors.InfeasibleError as error:
        print(f"\n{batching}: {error}; {time.process_time() - started:.1f} s of CPU")
        return
    print(f"\n{answer}\n{time.process_time() - started:.1f} s of CPU")


@pytest.mark.parametrize(
    "asked",
    [{"batching": "continuous", "waves": (1,)}, {"batching": "continuous"}, {}],
    ids=["at once", "waves", "either batching"],
)
@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b"])
@pytest.mark.parametrize("cluster", ["smart-home", "wired-home", "edge-cluster", "traffic-5g", "traffic-analytics"])
def test_largest_rates(cluster: str, model: str, asked: dict[str, Any]) -> None:
    request = dora.load_workload(model, mode="generate", batch=1, new_tokens=64)
    started = time.process_time()
    answer = dora.serve(request, dora.load_cluster(cluster), **asked, time_limit_s=60.0)
    joining = f"{answer.batching}, wave {answer.wave}"
    shape = f"{answer.groups} x {answer.slots} slots on {', '.join(answer.plan.devices)}, {joining}"
    print(
        f"\n{cluster}, {model}: {answer.value:.3g} requests/s, bound {answer.bound:.3g}, gap {answer.gap:.1%}, "
        f"{shape}; mean latency {answer.figures.latency_s:.3g} s; {time.process_time() - started:.1f} s of CPU"
    )
    assert answer.value <= answer.bound


#: What limits are, in parts of what a request alone takes at least on the best plan: first token, token, latency.
LIMITS = {
    "first token": (2.0, None, None),
    "token": (None, 1.5, None),
    "latency": (None, None, 2.0),
    "all three": (3.0, 2.0, 2.5),
}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b"])
@pytest.mark.parametrize("cluster", ["smart-home", "wired-home", "edge-cluster", "traffic-analytics"])
def test_largest_rates_within_limits(cluster: str, model: str, limits: str) -> None:
    place, request = dora.load_cluster(cluster), dora.load_workload(model, mode="generate", batch=1, new_tokens=64)
    alone = dora.serve(
        request, place, dora.ServingGoal(requests_per_s=1e-3), slots=(1,), groups=(1,), requests=6
    ).figures
    assert alone.token_s is not None
    first, token, latency = LIMITS[limits]
    goal = dora.ServingGoal(
        objective="rate",
        first_token_s=first and first * alone.first_token_s,
        token_s=token and token * alone.token_s,
        latency_s=latency and latency * alone.latency_s,
    )
    started = time.process_time()
    answer = dora.serve(request, place, goal, time_limit_s=120.0)
    seconds = time.process_time() - started
    print(
        f"\n{cluster}, {model}, {limits}: {answer.value:.3g} requests/s of {answer.bound:.3g} by the bound, of "
        f"{largest_capacity(request, place, goal):.3g} by capacity; {answer.groups} x {answer.slots} slots on "
        f"{', '.join(answer.plan.devices)}, {answer.batching}, wave {answer.wave}; {seconds:.1f} s of CPU"
    )
    assert answer.value <= answer.bound


def largest_capacity(request: dora.Workload, place: dora.Cluster, goal: dora.ServingGoal) -> float:
    """Of all plans that keep the limits for one request."""
    table = cost_table(request.replace(batch=8), place)
    every = [Chains(request, place, table, goal, slots, groups) for slots in (1, 2, 4, 8) for groups in (1, 2, 3, 4)]
    firsts = [next((chain for _, chain in each.in_order(by_capacity=True) if chain), None) for each in every]
    return max(each.service.capacity_per_s for each in firsts if each is not None)
