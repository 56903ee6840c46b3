"""What every back end takes and gives, so that callers never see a solver's own objects.

A number that a solver does not have is ``None``, never NaN or an infinity: an early bound of ``-inf`` or a gap divided
by an objective of zero would otherwise travel into tables, figures and files.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dora_nb.errors import InputError

if TYPE_CHECKING:
    import linopy

    from dora_nb.solvers.lineardata import Readable

FloatArray: TypeAlias = npt.NDArray[np.float64]

#: Solvers write 1e30, 1e100 or an infinity for "no value yet"; no figure of ours comes near.
NO_VALUE = 1e30


class Status(Enum):
    """What a solve ended with; whether there is an incumbent is never a guess."""

    OPTIMAL = "optimal"  #: the incumbent is proven to be within the asked gap
    FEASIBLE = "feasible"  #: a limit or a cancel came first; there is an incumbent
    INFEASIBLE = "infeasible"  #: proven: no values satisfy the constraints
    UNBOUNDED = "unbounded"  #: proven: the objective improves without limit
    NO_INCUMBENT = "no incumbent"  #: a limit or a cancel came first; nothing was found and nothing is proven

    @property
    def has_incumbent(self) -> bool:
        """Whether values come with this status."""
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how well to solve.

    Parameters
    ----------
    time_limit_s
        Wall seconds for the whole call, the hand-over to the solver included; None: no limit.
    node_limit
        Nodes of the search tree after which to stop, so that the answer does not depend on the clock; None: no limit.
    mip_gap
        Relative gap at which an incumbent counts as optimal, ``|incumbent - bound| / |incumbent|``. The absolute gap of
        the solvers is switched off: it would end a model whose objective is small (seconds, joules) far too early.
    threads
        Threads of the solver; None: the solver's own choice, which grows with the cores of the machine.
    seed
        Random seed; None: the solver's fixed default. A time limit or a cancel can still make two runs differ.
    log
        True: print the solver's own log. A path: append it to that file.

    Raises
    ------
    InputError
        A number is out of its range.
    """

    time_limit_s: float | None = None
    node_limit: int | None = None
    mip_gap: float = 1e-4
    threads: int | None = None
    seed: int | None = None
    log: bool | Path = False

    def __post_init__(self) -> None:
        if self.time_limit_s is not None and not (math.isfinite(self.time_limit_s) and self.time_limit_s >= 0):
            raise InputError("time_limit_s", self.time_limit_s, "seconds of 0 or more, or None for no limit")
        if self.node_limit is not None and self.node_limit < 1:
            raise InputError("node_limit", self.node_limit, "1 or more, or None for no limit")
        if not (math.isfinite(self.mip_gap) and self.mip_gap >= 0):
            raise InputError("mip_gap", self.mip_gap, "a relative gap of 0 or more, e.g. 0.001 for 0.1 %")
        if self.threads is not None and self.threads < 1:
            raise InputError("threads", self.threads, "1 or more, or None for the solver's choice")
        if self.seed is not None and not 0 <= self.seed <= 2_000_000_000:
            raise InputError("seed", self.seed, "0 to 2,000,000,000, or None for the solver's default")
        if isinstance(self.log, Path) and not self.log.parent.is_dir():
            raise InputError("log", str(self.log), f"a file in a folder that exists; there is no {self.log.parent}")


@dataclass(frozen=True, slots=True)
class Event:
    """How far a solve is: the line of a live display.

    Within one solve ``wall_s`` and ``nodes`` never fall, and incumbent and bound only move towards each other.

    Parameters
    ----------
    wall_s
        Wall seconds since the call.
    incumbent
        Objective of the best values so far, or None.
    bound
        Proven bound on the objective so far, or None.
    gap
        :func:`relative_gap` of the two, or None.
    nodes
        Nodes of the search tree explored so far.
    """

    wall_s: float
    incumbent: float | None
    bound: float | None
    gap: float | None
    nodes: int


OnEvent: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one solve.

    Parameters
    ----------
    status
        How it ended.
    objective
        The incumbent's objective as the solver states it, or None without incumbent.
    bound
        Proven (dual) bound on the objective, or None. For a linear program solved to the end it is the objective.
    gap
        :func:`relative_gap` of the two, or None.
    values
        Values by variable name, each array in the shape of its variable and NaN where the variable is masked; empty
        without incumbent. Integers are as the solver leaves them, e.g. 0.9999999.
    wall_s
        Wall seconds of the whole call.
    solver
        Name and version, e.g. ``HiGHS 1.15.1``.
    reason
        Why this solver, as a short sentence.
    nodes
        Nodes of the search tree explored; 0 for a linear program, and where presolving was enough.
    """

    status: Status
    objective: float | None
    bound: float | None
    gap: float | None
    values: dict[str, FloatArray] = field(repr=False)
    wall_s: float
    solver: str
    reason: str
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class SolverInfo:
    """Whether a solver can be used here, for a report on the installation.

    Parameters
    ----------
    name
        ``HiGHS`` or ``Gurobi``.
    version
        Installed version; empty when not installed.
    usable
        Whether a model can be handed to it (of any size: ``detail`` tells about limits).
    detail
        Licence, limits and expiry, or why it cannot be used.
    """

    name: str
    version: str
    usable: bool
    detail: str


class Backend(Protocol):
    """One solver behind the contract."""

    @property
    def name(self) -> str:
        """Name as people know it."""

    def describe(self) -> SolverInfo:
        """Whether the solver can be used here."""

    def solve(
        self,
        model: linopy.Model | Readable,
        options: Options,
        on_event: OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Outcome:
        """Solve a linear model with continuous, integer and binary variables.

        Parameters
        ----------
        model
            The model; it is only read.
        options
            Limits, gap, threads, seed, log.
        on_event
            Called with every change of incumbent or bound that the solver tells, and without a change at most every
            0.1 s, from a thread of the solver: return at once and lock what you share. An exception it raises stops
            the solve and comes out of this call.
        cancel
            Set it from any thread to stop with the incumbent there is. It is only read.

        Returns
        -------
        Outcome
            Also for an infeasible or unbounded model: these are answers, not errors.

        Raises
        ------
        SolverUnavailableError
            The solver is not installed, or not licensed for a model of this size.
        SolverError
            The model holds something that cannot be solved reliably, or the solver failed.
        KeyboardInterrupt
            Ctrl-C while waiting; the solver has been told to stop.
        """


def finite(value: float | None) -> float | None:
    """The number, or None for NaN, an infinity, or a solver's way of writing one."""
    return float(value) if value is not None and abs(value) < NO_VALUE else None


def relative_gap(incumbent: float | None, bound: float | None) -> float | None:
    """Relative gap ``|incumbent - bound| / |incumbent|``, a fraction.

    None when either number is missing, or when the incumbent is zero and the bound is not.
    """
    if incumbent is None or bound is None:
        return None
    if incumbent == bound:
        return 0.0
    return finite(abs(incumbent - bound) / abs(incumbent)) if incumbent else None
