"""Errors and answers pass between processes, as a pool of them needs."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import builders
import pytest

import dora_nb as dora
from dora_nb.errors import DocumentError, MissingDependencyError, UnknownNameError, WorkerLostError


@pytest.mark.parametrize(
    "error",
    [
        dora.InputError("batch", 0, "at least 1"),
        UnknownNameError("device", "fone", ["phone"], "or a file"),
        DocumentError("plan.json", "is not JSON"),
        MissingDependencyError("torch", "running", "exec"),
        WorkerLostError(1, "killed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pass_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_answers_pass_between_processes():
    """In a pool an answer comes back whole, and a question without one as its error."""
    workload, cluster = builders.workload(), builders.cluster()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        plans = pool.submit(dora.plan, workload, cluster).result(60)
        assert plans.plans == dora.plan(workload, cluster).plans
        with pytest.raises(dora.InfeasibleError, match="impossible") as caught:
            pool.submit(dora.plan, workload, cluster, dora.QoE(latency_s=1e-9)).result(60)
    assert [change.needed for each in caught.value.relaxations for change in each.changes]


def test_a_wrong_value_is_repeated_in_short_and_its_file_is_named():
    error = dora.InputError("out", Path("plan.json"), "nothing")
    assert str(error) == "out: got 'plan.json'; allowed: nothing"
    error.path = Path("home.json")
    assert str(error) == "home.json: out: got 'plan.json'; allowed: nothing"
    assert len(str(dora.InputError("devices", list(range(1000)), "a list of objects"))) < 300


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dora.QoE(latency_s=-1), "allowed: greater than or equal to 0"),
        (lambda: dora.QoE(objective="speed"), "allowed: 'latency', 'energy' or 'price'"),
        (lambda: dora.Cluster(name="none", devices=(), domains=()), "devices: got (); allowed: at least 1 item"),
    ],
)
def test_what_is_allowed_is_said_in_our_own_words(make, words):
    with pytest.raises(dora.InputError) as caught:
        make()
    assert words in str(caught.value)
