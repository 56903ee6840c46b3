"""A composition as it was composed: told which condition holds, it takes its plans in the order of that condition."""

from __future__ import annotations

from dataclasses import dataclass, field

from dora_nb.domain.composition import Composition
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.errors import InputError
from dora_nb.simulation.world import World


@dataclass
class Composed:
    """Plays a composition in a world that passes through its own conditions.

    It is told the condition at every step, so it never lags behind; in a world that has other states as well a
    composition needs an adapter.

    Attributes
    ----------
    composition
        What is played.
    world
        Where.

    Raises
    ------
    InputError
        If the world has a state that is none of the composition's conditions.
    """

    composition: Composition
    world: World
    _turn: list[int] = field(init=False, repr=False)
    _condition_of: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        conditions = self.composition.conditions.conditions
        known = [World.of_conditions(self.world.cluster, [(0.0, each)]).states[0] for each in conditions]
        for at_s, state in zip(self.world.times_s.tolist(), self.world.states, strict=True):
            if state not in known:
                allowed = (
                    f"the composition's conditions ({', '.join(self.composition.conditions.names)}) and no others, as "
                    "of World.of_conditions; elsewhere let an Adapter drive the composition"
                )
                raise InputError("world", f"another state at {at_s:g} s", allowed)
        self._condition_of = [known.index(state) for state in self.world.states]
        self._turn = [0] * len(conditions)

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The next plan in the order of the condition that holds."""
        del present  # a condition's plans do without what is absent in it
        condition = self._condition_of[self.world.index_at(now_s)]
        order = self.composition.figures[condition].order
        plan = self.composition.plans[order[self._turn[condition] % len(order)]]
        self._turn[condition] += 1
        return plan

    def observe(self, report: StepReport) -> None:
        """Nothing is learnt."""
