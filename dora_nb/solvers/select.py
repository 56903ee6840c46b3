"""Which solver: Gurobi where it is installed and licensed for the size, else HiGHS; always with the reason."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from dora_nb.errors import InputError, SolverUnavailableError
from dora_nb.solvers import gurobi
from dora_nb.solvers.contract import Backend, OnEvent, Options, Outcome, SolverInfo
from dora_nb.solvers.gurobi import GurobiBackend
from dora_nb.solvers.highs import HighsBackend

if TYPE_CHECKING:
    import linopy

SolverName = Literal["auto", "gurobi", "highs"]

#: ``auto``, ``gurobi`` or ``highs``: takes the place of ``solver="auto"``.
ENVIRONMENT_VARIABLE = "DORA_NB_SOLVER"

_BACKENDS: dict[str, Backend] = {"gurobi": GurobiBackend(), "highs": HighsBackend()}


def solve(
    model: linopy.Model,
    options: Options | None = None,
    *,
    solver: SolverName = "auto",
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
        ``DORA_NB_SOLVER`` decides instead where it is set. ``"gurobi"``, ``"highs"``: that one.
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
    options = options or Options()
    name, asked = _wanted(solver)
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


def _wanted(solver: str) -> tuple[str, str]:
    """The solver to use and how it was asked for."""
    field, name, asked = "solver", solver, "asked for"
    if solver == "auto" and os.environ.get(ENVIRONMENT_VARIABLE):
        field, name = ENVIRONMENT_VARIABLE, os.environ[ENVIRONMENT_VARIABLE].strip().lower()
        asked = f"asked for by {ENVIRONMENT_VARIABLE}"
    if name not in get_args(SolverName):
        raise InputError(field, name, ", ".join(get_args(SolverName)))
    return name, asked
