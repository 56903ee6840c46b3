"""What a person may say about the solver: the same words for every back end."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from dora_nb.errors import InputError
from dora_nb.solvers.contract import Options

SolverName = Literal["auto", "gurobi", "highs"]

#: ``auto``, ``gurobi`` or ``highs``: takes the place of ``solver="auto"``.
ENVIRONMENT_VARIABLE = "DORA_NB_SOLVER"


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """Which solver, and how it is run; gaps and time limits belong to the question and are given with it.

    Parameters
    ----------
    name
        ``auto``: Gurobi where it is installed and licensed for the size, else HiGHS; the environment variable
        ``DORA_NB_SOLVER`` decides instead where it is set. ``gurobi``, ``highs``: that one.
    threads
        Threads of the solver; None: its own choice.
    seed
        Random seed, 0 to 2,000,000,000; None: the solver's default.
    log
        True: print the solver's own log. A path: append it to that file.

    Raises
    ------
    InputError
        No such solver, or a number is out of its range.

    Examples
    --------
    >>> SolverOptions("highs", threads=1, seed=7)
    SolverOptions(name='highs', threads=1, seed=7, log=False)
    """

    name: str = "auto"
    threads: int | None = None
    seed: int | None = None
    log: bool | str | Path = False

    def __post_init__(self) -> None:
        if self.name not in get_args(SolverName):
            raise InputError("solver", self.name, ", ".join(get_args(SolverName)))
        self.over(Options())

    @classmethod
    def of(cls, choice: SolverChoice) -> SolverOptions:
        """The options themselves, or those of a solver's name alone.

        Raises
        ------
        InputError
            If there is no such solver.
        """
        return choice if isinstance(choice, SolverOptions) else cls(choice)

    def over(self, options: Options) -> Options:
        """The options of one solve, with what was said here in place of what they have."""
        log = Path(self.log) if isinstance(self.log, str) else self.log
        return replace(
            options,
            threads=options.threads if self.threads is None else self.threads,
            seed=options.seed if self.seed is None else self.seed,
            log=log or options.log,
        )

    def wanted(self) -> tuple[str, str]:
        """The solver to use, and how it was asked for.

        Raises
        ------
        InputError
            If the environment variable names no solver.
        """
        written = os.environ.get(ENVIRONMENT_VARIABLE, "") if self.name == "auto" else ""
        if not written:
            return self.name, "asked for"
        name = written.strip().lower()
        if name not in get_args(SolverName):
            raise InputError(ENVIRONMENT_VARIABLE, name, ", ".join(get_args(SolverName)))
        return name, f"asked for by {ENVIRONMENT_VARIABLE}"


#: A solver's name, or that with threads, seed and log.
SolverChoice: TypeAlias = str | SolverOptions
