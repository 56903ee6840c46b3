"""HiGHS: always installed, any size."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_nb.errors import SolverError, SolverUnavailableError
from dora_nb.solvers.contract import OnEvent, Options, Outcome, SolverInfo, Status
from dora_nb.solvers.lineardata import LinearData
from dora_nb.solvers.running import Raw, Watch, conduct

if TYPE_CHECKING:
    import linopy

    from dora_nb.solvers.lineardata import Readable


class HighsBackend:
    """The :class:`~dora_nb.solvers.contract.Backend` on HiGHS."""

    name = "HiGHS"

    def solve(
        self,
        model: linopy.Model | Readable,
        options: Options,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Outcome:
        """Solve with HiGHS; see :meth:`Backend.solve`."""
        return conduct(_run, f"HiGHS {quiet_highs().version()}", model, options, on_event, cancel)

    def describe(self) -> SolverInfo:
        """Whether HiGHS can be used here."""
        try:
            return SolverInfo(self.name, quiet_highs().version(), True, "MIT licence, no limits")
        except SolverUnavailableError as problem:
            return SolverInfo(self.name, "", False, str(problem))


def quiet_highs() -> Any:
    """A HiGHS object that prints nothing.

    Raises
    ------
    SolverUnavailableError
        highspy is not installed.
    """
    try:
        import highspy
    except ImportError:
        raise SolverUnavailableError("highspy is not installed; install it with: pip install highspy") from None

    def silence_then_enable(self: Any) -> None:
        # The constructor calls this, and since 1.16 it prints the banner unless output is off by then.
        self.silent()
        highspy.Highs.enableCallbacks(self)  # type: ignore[no-untyped-call, unused-ignore]

    # Made by type() as a subclass written out cannot be typed both with and without highspy installed.
    quiet: Any = type("QuietHighs", (highspy.Highs,), {"enableCallbacks": silence_then_enable})
    return quiet()


def _run(data: LinearData, options: Options, watch: Watch) -> Raw:
    highs = quiet_highs()
    scale = _objective_scale(data)
    for option, value in _options(options, watch).items():
        _demand(highs.setOptionValue(option, value), f"refused the option {option} = {value!r}")
    _demand(highs.passModel(_linear_program(data, scale)), "refused the model")
    if data.is_mip:
        highs.cbMipInterrupt += lambda event: _on_mip(event, watch, scale)
    # Also within a MIP: its first relaxation can take most of the time and asks only here whether to go on.
    highs.cbSimplexInterrupt += lambda event: event.interrupt(watch.stopped())
    highs.cbIpmInterrupt += lambda event: event.interrupt(watch.stopped())
    ended = highs.run()
    raw = _raw(highs, data, scale)
    if raw is None and not watch.stopped():  # presolved models end in an error now and then that others do not
        highs.clearSolver()
        _demand(highs.setOptionValue("presolve", "off"), "refused to go on without presolve")
        ended = highs.run()
        raw = _raw(highs, data, scale)
    if raw is None:
        status = highs.getModelStatus()
        raise SolverError(f"HiGHS failed: {ended.name}, model status {highs.modelStatusToString(status)!r}")
    return raw


def _demand(status: Any, problem: str) -> None:
    if status.name == "kError":
        raise SolverError(f"HiGHS {problem}")


def _options(options: Options, watch: Watch) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "output_flag": bool(options.log),
        "log_to_console": options.log is True,
        "log_file": str(options.log) if isinstance(options.log, Path) else None,  # HiGHS appends
        "mip_rel_gap": options.mip_gap,
        "mip_abs_gap": 0.0,  # the default 1e-6 ends a model with a small objective at any relative gap
        "time_limit": watch.remaining_s(options),
        "mip_max_nodes": options.node_limit,
        "threads": options.threads,
        "random_seed": options.seed,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _objective_scale(data: LinearData) -> float:
    """Power of two (exact in doubles) that brings a small objective to coefficients around 1.

    HiGHS judges optimality by an absolute tolerance of 1e-7 on reduced costs: with coefficients of 1e-7 it calls a
    value optimal that is 3 % off.
    """
    largest = float(np.abs(data.cost).max(initial=0.0))
    return 1.0 if largest == 0 or largest >= 1 else float(2.0 ** -np.floor(np.log2(largest)))


def _linear_program(data: LinearData, scale: float) -> Any:
    import highspy

    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(data.cost), len(data.rhs)
    program.sense_ = highspy.ObjSense.kMaximize if data.maximise else highspy.ObjSense.kMinimize
    program.col_cost_, program.offset_ = data.cost * scale, data.offset * scale
    program.col_lower_, program.col_upper_ = data.lower, data.upper
    program.row_lower_ = np.where(data.sense == "<", -np.inf, data.rhs)
    program.row_upper_ = np.where(data.sense == ">", np.inf, data.rhs)
    if data.matrix is not None:
        rows = program.a_matrix_
        rows.format_ = highspy.MatrixFormat.kRowwise
        rows.num_row_, rows.num_col_ = data.matrix.shape
        rows.start_ = data.matrix.indptr.astype(np.int32)
        rows.index_ = data.matrix.indices.astype(np.int32)
        rows.value_ = data.matrix.data
    if data.is_mip:
        kinds = highspy.HighsVarType
        program.integrality_ = [kinds.kInteger if integer else kinds.kContinuous for integer in data.integer]
    return program


def _on_mip(event: Any, watch: Watch, scale: float) -> None:
    news = event.data_out
    watch.report(news.mip_primal_bound / scale, news.mip_dual_bound / scale, int(news.mip_node_count))
    event.interrupt(watch.stopped())


def _raw(highs: Any, data: LinearData, scale: float) -> Raw | None:
    """What HiGHS said, or None for an end that is a failure."""
    import highspy

    ends = highspy.HighsModelStatus
    info = highs.getInfo()
    incumbent = info.objective_function_value / scale
    bound = info.mip_dual_bound / scale if data.is_mip else None
    nodes = max(0, int(info.mip_node_count)) if data.is_mip else 0
    match highs.getModelStatus():
        case ends.kOptimal:
            return Raw(Status.OPTIMAL, incumbent, bound if data.is_mip else incumbent, _x(highs), nodes)
        case ends.kModelEmpty:
            return Raw(Status.OPTIMAL, data.offset, data.offset, np.zeros(len(data.cost)))
        case ends.kInfeasible:
            return Raw(Status.INFEASIBLE, nodes=nodes)
        case ends.kUnbounded | ends.kUnboundedOrInfeasible:
            return Raw(None)
        case ends.kTimeLimit | ends.kInterrupt | ends.kSolutionLimit:
            # A linear program that is stopped has a simplex iterate at best: neither a bound nor a kept promise.
            found = data.is_mip and info.primal_solution_status == int(highspy.SolutionStatus.kSolutionStatusFeasible)
            if found:
                return Raw(Status.FEASIBLE, incumbent, bound, _x(highs), nodes)
            return Raw(Status.NO_INCUMBENT, bound=bound, nodes=nodes)
        case _:
            return None


def _x(highs: Any) -> Any:
    return np.asarray(highs.getSolution().col_value, dtype=np.float64)


def rewrite(source: Path, target: Path) -> None:
    """Read a model file, LP or MPS, and write it again in the form of another name's ending; nothing is printed.

    Raises
    ------
    SolverError
        If it cannot be read or written.
    """
    highs = quiet_highs()
    _demand(highs.readModel(str(source)), f"cannot read the model {source}")
    _demand(highs.writeModel(str(target)), f"cannot write the model {target}")
