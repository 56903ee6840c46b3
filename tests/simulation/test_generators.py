"""Generated traces: the same from the same seed, and as often in each state as the chain says."""

from __future__ import annotations

import numpy as np
import pytest

from dora_nb.catalog import load_conditions, load_dynamics, names
from dora_nb.domain.dynamics import MarkovChain, MarkovState
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.simulation.generators import absences, long_run, visits, wander
from dora_nb.simulation.traces import Trace

TWO = MarkovChain(
    name="two",
    step_s=2.0,
    states=(MarkovState(name="up", level=1.0, to={"down": 0.1}), MarkovState(name="down", level=0.25, to={"up": 0.3})),
)


def time_at(trace: Trace, level: float) -> float:
    """Share of the time that a trace spends at a level."""
    spans = np.diff(trace.times_s, append=trace.end_s)
    return float(spans[trace.values == level].sum() / trace.end_s)


def test_a_chain_is_in_each_state_as_often_as_it_must() -> None:
    """0.3 / 0.4 of the time up, and 1 / 0.1 steps of 2 s at a stretch."""
    assert long_run(TWO) == pytest.approx([0.75, 0.25])
    trace = wander(TWO, 400_000, seed=1)
    assert time_at(trace, 1.0) == pytest.approx(0.75, abs=0.01)
    spans = np.diff(trace.times_s, append=trace.end_s)
    assert spans[trace.values == 1.0].mean() == pytest.approx(20, rel=0.05)
    assert (np.diff(trace.values) != 0).all()
    assert (trace.origin, trace.source) == ("generated", "two, seed 1")


def test_the_same_seed_gives_the_same_trace() -> None:
    one, same, other = (wander(TWO, 1000, seed=seed) for seed in (7, 7, 8))
    assert one.times_s.tolist() == same.times_s.tolist()
    assert one.values.tolist() == same.values.tolist()
    assert one.times_s.tolist() != other.times_s.tolist()


def test_a_trace_may_start_where_one_wants() -> None:
    assert {wander(TWO, 10, seed=seed, start="down").values[0] for seed in range(9)} == {0.25}
    with pytest.raises(UnknownNameError, match="down, up"):
        wander(TWO, 10, seed=0, start="left")


@pytest.mark.parametrize("name", names("dynamics"))
def test_every_chain_of_the_catalogue_wanders(name: str) -> None:
    chain = load_dynamics(name)
    trace = wander(chain, 20_000 * chain.step_s, seed=3)
    for state, share in zip(chain.states, long_run(chain), strict=True):
        assert time_at(trace, state.level) == pytest.approx(share, abs=0.05)
    assert len(chain.sources) == 1
    assert all(len(state.sources) == 1 + len(state.to) for state in chain.states)


def test_the_5g_chain_is_as_often_cut_off_as_what_it_was_fitted_to() -> None:
    """18 of 240 samples; with two outages only, that is all that can be asked."""
    chain = load_dynamics("5g-driving")
    outage = next(at for at, state in enumerate(chain.states) if state.name == "outage")
    assert 0.02 < long_run(chain)[outage] < 0.15


def test_devices_come_and_go() -> None:
    trace = absences(400_000, 5, there_s=300, away_s=100)
    assert trace.values[0] == 1.0
    assert set(trace.values.tolist()) == {0.0, 1.0}
    assert time_at(trace, 1.0) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"step_s": 0}, "step_s"),
        ({"states": ()}, "states"),
        ({"states": (TWO.states[0], TWO.states[0])}, "under a name of its own"),
        ({"states": (TWO.states[0],)}, "down"),
        ({"states": (TWO.states[0].replace(to={"down": 0.7, "left": 0.6}), TWO.states[1])}, "left"),
        ({"states": (*TWO.states, MarkovState(name="off", level=0, to={"up": 0.6, "down": 0.6}))}, "at most 1"),
    ],
)
def test_chains_that_cannot_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TWO.replace(**fields)


def test_horizons_and_means_that_cannot_be() -> None:
    with pytest.raises(InputError, match="horizon_s"):
        wander(TWO, 0, seed=1)
    with pytest.raises(InputError, match="away_s"):
        absences(10, 1, there_s=1, away_s=0)


def test_conditions_are_met_as_often_as_they_are_likely() -> None:
    """Drawn anew every ten windows on average, by their probabilities and whatever it was before."""
    states = load_conditions("smart-home-evening")
    windows, window_s = 200_000, 3.0
    phases = visits(states, windows * window_s, seed=4, window_s=window_s)
    starts_s = np.array([at for at, _ in phases])
    assert starts_s[0] == 0
    assert (np.diff(starts_s) > 0).all()
    assert np.allclose(np.round(starts_s / window_s) * window_s, starts_s)
    assert windows / len(phases) == pytest.approx(states.windows_per_change, rel=0.05)
    spans = np.diff(starts_s, append=windows * window_s)
    for state in states.conditions:
        own = spans[[each.name == state.name for _, each in phases]].sum() / (windows * window_s)
        assert own == pytest.approx(state.probability, abs=0.02)


def test_visits_are_the_same_from_the_same_seed() -> None:
    states = load_conditions("edge-cluster-day")
    first, again, other = (visits(states, 600.0, seed=seed, window_s=2.0) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    with pytest.raises(InputError, match="window_s"):
        visits(states, 600.0, seed=1, window_s=0.0)
