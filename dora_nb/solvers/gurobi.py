"""Gurobi: fast where it is licensed. The licence bundled with gurobipy reaches to 2,000 variables."""

from __future__ import annotations

import _thread
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_nb.errors import SolverError, SolverUnavailableError
from dora_nb.solvers.contract import OnEvent, Options, Outcome, SolverInfo, Status
from dora_nb.solvers.lineardata import LinearData
from dora_nb.solvers.running import Raw, Watch, conduct

if TYPE_CHECKING:
    import gurobipy
    import linopy

    from dora_nb.solvers.lineardata import Readable

#: Variables, and linear constraints, that the bundled licence allows.
BUNDLED_LIMIT = 2000

_TOO_LARGE = 10010
_NO_LICENCE = (10009, 10022)  # expired, missing or malformed, token server down; web licence service unreachable


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence that Gurobi found.

    Parameters
    ----------
    bundled
        Whether its size is limited as that of the licence in the package is.
    expires
        Its last day, or None when it does not end.
    """

    bundled: bool
    expires: date | None

    def __str__(self) -> str:
        limits = f"bundled, up to {BUNDLED_LIMIT:,} variables and as many constraints" if self.bundled else "full"
        return f"licence: {limits}, {f'expires {self.expires}' if self.expires else 'no expiry'}"


class GurobiBackend:
    """The :class:`~dora_nb.solvers.contract.Backend` on Gurobi."""

    name = "Gurobi"

    def solve(
        self,
        model: linopy.Model | Readable,
        options: Options,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Outcome:
        """Solve with Gurobi; see :meth:`Backend.solve`."""
        return conduct(_run, f"Gurobi {_version(_gurobipy())}", model, options, on_event, cancel)

    def describe(self) -> SolverInfo:
        """Whether Gurobi can be used here, and with which licence."""
        version = ""
        try:
            version = _version(_gurobipy())
            return SolverInfo(self.name, version, True, str(licence()))
        except SolverError as problem:
            return SolverInfo(self.name, version, False, str(problem))


def licence() -> Licence:
    """The licence that Gurobi finds, looked up once per process (a few milliseconds).

    Raises
    ------
    SolverUnavailableError
        gurobipy is not installed, or finds no valid licence.
    """
    _gurobipy()  # outside the cache: an answer from before must not hide that the package is gone
    return _licence()


@functools.cache
def _licence() -> Licence:
    gp = _gurobipy()
    with _session(0, 0) as environment, gp.Model(env=environment) as model:
        expiry = int(model.LicenseExpiration)
        # Gurobi does not say whether the licence is the bundled one, but that one refuses this model at once.
        model.addMVar(BUNDLED_LIMIT + 1)
        try:
            model.optimize()
            bundled = False
        except gp.GurobiError as problem:
            if problem.errno != _TOO_LARGE:
                raise
            bundled = True
    never = expiry >= 9999_00_00
    return Licence(bundled, None if never else date(expiry // 10000, expiry // 100 % 100, expiry % 100))


def _gurobipy() -> Any:
    try:
        import gurobipy
    except ImportError:
        raise SolverUnavailableError("gurobipy is not installed; install it with: pip install gurobipy") from None
    return gurobipy


def _version(gp: Any) -> str:
    return ".".join(str(part) for part in gp.gurobi.version())


@contextmanager
def _session(n_columns: int, n_rows: int) -> Iterator[gurobipy.Env]:
    """An environment without the licence banner, given back at the end; Gurobi's errors in ours."""
    gp = _gurobipy()
    try:
        with gp.Env(params={"OutputFlag": 0}) as environment:
            yield environment
    except gp.GurobiError as problem:
        if problem.errno == _TOO_LARGE:
            raise SolverUnavailableError(f"Gurobi's licence is too small for {_size(n_columns, n_rows)}") from problem
        if problem.errno in _NO_LICENCE:
            raise SolverUnavailableError(f"Gurobi found no valid licence: {problem}") from problem
        raise SolverError(f"Gurobi failed (error {problem.errno}): {problem}") from problem


def _size(n_columns: int, n_rows: int) -> str:
    """The size of a model, told by what is above the bundled limit."""
    if n_columns > BUNDLED_LIMIT:
        return f"{n_columns:,} variables (limit {BUNDLED_LIMIT:,})"
    if n_rows > BUNDLED_LIMIT:
        return f"{n_rows:,} constraints (limit {BUNDLED_LIMIT:,})"
    return f"{n_columns:,} variables and {n_rows:,} constraints"


def _run(data: LinearData, options: Options, watch: Watch) -> Raw:
    gp = _gurobipy()
    with _session(len(data.cost), len(data.rhs)) as environment, gp.Model(env=environment) as model:
        kinds = np.where(data.integer, "I", "C")
        x = model.addMVar(len(data.cost), lb=data.lower, ub=data.upper, obj=data.cost, vtype=kinds)
        model.ObjCon = data.offset
        model.ModelSense = gp.GRB.MAXIMIZE if data.maximise else gp.GRB.MINIMIZE
        if data.matrix is not None:
            model.addMConstr(data.matrix, x, data.sense, data.rhs)
        for parameter, value in _parameters(options, watch).items():
            model.setParam(parameter, value)
        model.optimize(lambda model, where: _on_callback(gp.GRB.Callback, model, where, watch))
        if model.Status == gp.GRB.INTERRUPTED and not watch.stopped():
            # While it runs, Gurobi takes Ctrl-C for itself and Python never hears of it: hand it on.
            _thread.interrupt_main()
        return _raw(gp.GRB, model, x)


def _parameters(options: Options, watch: Watch) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "LogToConsole": int(options.log is True),  # before output is on: Gurobi prints what is set
        "OutputFlag": int(bool(options.log)),
        "LogFile": str(options.log) if isinstance(options.log, Path) else None,  # Gurobi appends
        "MIPGap": options.mip_gap,
        "MIPGapAbs": 0.0,
        # As strict as HiGHS: with big-M rows a looser tolerance on integers is another model.
        "IntFeasTol": 1e-6,
        "TimeLimit": watch.remaining_s(options),
        "NodeLimit": options.node_limit,
        "Threads": options.threads,
        "Seed": options.seed,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _on_callback(codes: Any, model: Any, where: int, watch: Watch) -> None:
    if where == codes.MIP:
        incumbent, bound = model.cbGet(codes.MIP_OBJBST), model.cbGet(codes.MIP_OBJBND)
        watch.report(incumbent, bound, int(model.cbGet(codes.MIP_NODCNT)))
    if watch.stopped():
        model.terminate()


def _raw(codes: Any, model: Any, x: Any) -> Raw:
    nodes = int(model.NodeCount)
    match model.Status:
        case codes.OPTIMAL:
            bound = model.ObjBound if model.IsMIP else model.ObjVal
            return Raw(Status.OPTIMAL, model.ObjVal, bound, np.asarray(x.X, dtype=np.float64), nodes)
        case codes.INFEASIBLE:
            return Raw(Status.INFEASIBLE, nodes=nodes)
        case codes.UNBOUNDED | codes.INF_OR_UNBD:
            return Raw(None)
        case codes.TIME_LIMIT | codes.NODE_LIMIT | codes.INTERRUPTED:
            # A linear program that is stopped has a simplex iterate at best: neither a bound nor a kept promise.
            bound = model.ObjBound if model.IsMIP else None
            if model.IsMIP and model.SolCount:
                return Raw(Status.FEASIBLE, model.ObjVal, bound, np.asarray(x.X, dtype=np.float64), nodes)
            return Raw(Status.NO_INCUMBENT, bound=bound, nodes=nodes)
        case ended:
            raise SolverError(f"Gurobi stopped with status {ended}, which is no answer: numerical trouble is likely")
