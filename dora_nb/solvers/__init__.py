"""One contract, two back ends: a mixed-integer linear model goes in, numbers with a proven bound come out.

>>> from dora_nb.solvers import Options, solve
>>> outcome = solve(model, Options(time_limit_s=10))  # doctest: +SKIP
>>> outcome.status, outcome.objective, outcome.bound  # doctest: +SKIP
"""

from dora_nb.solvers.choice import ENVIRONMENT_VARIABLE, SolverChoice, SolverOptions
from dora_nb.solvers.contract import Backend, Event, OnEvent, Options, Outcome, SolverInfo, Status, relative_gap
from dora_nb.solvers.select import available, solve

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "Backend",
    "Event",
    "OnEvent",
    "Options",
    "Outcome",
    "SolverChoice",
    "SolverInfo",
    "SolverOptions",
    "Status",
    "available",
    "relative_gap",
    "solve",
]
