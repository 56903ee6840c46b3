"""Which solver: Gurobi where it is installed and licensed for the size, else HiGHS; always with the reason."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dora_nb.errors import SolverUnavailableError
from dora_nb.solvers import gurobi
from dora_nb.solvers.choice import SolverChoice, SolverOptions
from dora_nb.solvers.contract import Backend, OnEvent, Options, Outcome, SolverInfo
from dora_nb.solvers.gurobi import GurobiBackend
from dora_nb.solvers.highs import HighsBackend

if TYPE_CHECKING:
    import linopy

    from dora_nb.solvers.lineardata import Readable

_BACKENDS: dict[str, Backend] = {"gurobi": GurobiBackend(), "highs": HighsBackend()}


def solve(
    model: linopy.Model | Readable,
    options: Options | None = None,
    *,
    solver: SolverChoice = "auto",
    on_event: OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Solve a mixed-integer linear model.

    Parameters
    ----------
    model
        Linear, with continuous, integer and binary variables.
    options
        Limits, gap, threads, seed, log; None: :class:`Options` as it stands.
    solver
        ``"auto"``: Gurobi when it is installed and its licence is large enough, else HiGHS; the environment variable
        ``DORA_NB_SOLVER`` decides instead where it is set. ``"gurobi"``, ``"highs"``: that one. Or a
        :class:`SolverOptions`, whose threads, seed and log come before those of ``options``.
    on_event, cancel
        As in :meth:`Backend.solve`.

    Returns
    -------
    Outcome
        With the reason for the solver in ``reason``.

    Raises
    ------
    InputError
        No such solver.
    SolverUnavailableError
        The solver asked for is not installed, or not licensed for a model of this size.
    SolverError
        The model holds something that cannot be solved reliably, or the solver failed.
    """
    chosen = SolverOptions.of(solver)
    options = chosen.over(options or Options())
    name, asked = chosen.wanted()
    if name != "auto":
        backend = _BACKENDS[name]
        return replace(backend.solve(model, options, on_event, cancel), reason=f"{backend.name}: {asked}")
    try:
        licence = gurobi.licence()
        outcome = _BACKENDS["gurobi"].solve(model, options, on_event, cancel)
    except SolverUnavailableError as problem:
        why_not = str(problem).partition(";")[0]  # what is wrong, without what to do about it
        return replace(_BACKENDS["highs"].solve(model, options, on_event, cancel), reason=f"HiGHS: {why_not}")
    kind = "bundled licence large enough" if licence.bundled else "full licence"
    return replace(outcome, reason=f"Gurobi: installed, {kind} ({model.nvars:,} variables)")


def available() -> list[SolverInfo]:
    """What is installed and what its licence allows, without solving anything large."""
    return [backend.describe() for backend in _BACKENDS.values()]
