from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import linopy
import numpy as np
import pytest

from dora_nb.solvers import Backend, Event, OnEvent, Options, Outcome, SolverInfo, Status, lineardata
from dora_nb.solvers.gurobi import GurobiBackend
from dora_nb.solvers.highs import HighsBackend


class FakeBackend:
    """Tries every point of a small box of integers: slow, and too simple to be wrong."""

    name = "Fake"

    def describe(self) -> SolverInfo:
        return SolverInfo(self.name, "1", True, "for tests")

    def solve(
        self,
        model: linopy.Model,
        options: Options,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Outcome:
        started = time.perf_counter()
        data = lineardata.read(model)
        assert data.integer.all(), "the fake tries integer points only"
        sign = -1.0 if data.maximise else 1.0
        best, best_x, complete = np.inf, None, True
        for point in itertools.product(
            *(np.arange(low, high + 1) for low, high in zip(data.lower, data.upper, strict=True))
        ):
            if cancel is not None and cancel.is_set():
                complete = False
                break
            x = np.array(point, dtype=float)
            rows = np.empty(0) if data.matrix is None else data.matrix @ x
            kept = np.where(data.sense == "<", rows <= data.rhs, np.where(data.sense == ">", rows >= data.rhs, True))
            kept &= (data.sense != "=") | np.isclose(rows, data.rhs)
            value = sign * (data.cost @ x + data.offset)
            if kept.all() and value < best:
                best, best_x = value, x
                if on_event is not None:
                    on_event(Event(time.perf_counter() - started, sign * best, None, None, 0))
        wall_s = time.perf_counter() - started
        if best_x is None:
            status = Status.INFEASIBLE if complete else Status.NO_INCUMBENT
            return Outcome(status, None, None, None, {}, wall_s, "Fake 1", "Fake: asked for")
        status, bound = (Status.OPTIMAL, sign * best) if complete else (Status.FEASIBLE, None)
        gap = 0.0 if complete else None
        return Outcome(status, sign * best, bound, gap, data.unpack(best_x), wall_s, "Fake 1", "Fake: asked for")


def _usable(backend: Backend) -> Backend:
    info = backend.describe()
    if not info.usable:
        pytest.skip(f"{info.name}: {info.detail}")
    return backend


_REAL: dict[str, Callable[[], Backend]] = {"highs": HighsBackend, "gurobi": GurobiBackend}
_ALL: dict[str, Callable[[], Backend]] = {"fake": FakeBackend, **_REAL}


@pytest.fixture(params=_ALL)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every back end, the fake included."""
    return _usable(_ALL[request.param]())


@pytest.fixture(params=_REAL)
def solver(request: pytest.FixtureRequest) -> Backend:
    """The back ends that are solvers."""
    return _usable(_REAL[request.param]())


@pytest.fixture
def gurobi() -> Backend:
    return _usable(GurobiBackend())


@pytest.fixture
def highs() -> Backend:
    return HighsBackend()


@pytest.fixture(scope="module")
def hard_model() -> linopy.Model:
    """Market split with slack: an incumbent at once, a root bound of 0, no proof within seconds."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 100, (4, 40)).astype(float)
    model = linopy.Model()
    x = model.add_variables(binary=True, coords=[range(40)], name="x")
    over = model.add_variables(lower=0, coords=[range(4)], name="over")
    under = model.add_variables(lower=0, coords=[range(4)], name="under")
    for i, row in enumerate(weights):
        model.add_constraints((row * x).sum() + under[i] - over[i] == row.sum() // 2)
    model.add_objective(over.sum() + under.sum())
    return model


@pytest.fixture(scope="module")
def hard_to_satisfy() -> linopy.Model:
    """Market split without slack: no incumbent in the time that a test gives it."""
    rng = np.random.default_rng(0)
    model = linopy.Model()
    x = model.add_variables(binary=True, coords=[range(50)], name="x")
    for row in rng.integers(0, 100, (6, 50)).astype(float):
        model.add_constraints((row * x).sum() == row.sum() // 2)
    model.add_objective(x.sum())
    return model
