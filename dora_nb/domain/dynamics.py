"""How a quantity wanders from state to state: a Markov chain in steps of equal length."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dora_nb.domain.cluster import Provenance
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.record import Record
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.units import Fraction, Seconds


class MarkovState(Record):
    """One state of a chain.

    Attributes
    ----------
    name
        Unique in its chain.
    level
        What the quantity is multiplied by while the chain is here.
    to
        Probability of going to each other state within one step; what is missing to 1 is that of staying.
    sources
        Provenance of each number, by field path.
    """

    name: str = Field(min_length=1)
    level: Annotated[float, Field(ge=0)]
    to: dict[str, Fraction] = Field(default_factory=dict)
    sources: dict[str, Provenance] = Field(default_factory=dict)


class MarkovChain(Record):
    """A quantity that jumps between levels.

    Attributes
    ----------
    name, description
        For the reader.
    step_s
        Length of a step.
    states
        It starts in the first, unless told otherwise.
    sources
        Provenance of ``step_s``.
    """

    name: str = Field(min_length=1)
    description: str = ""
    step_s: Annotated[Seconds, Field(gt=0)]
    states: tuple[MarkovState, ...] = Field(min_length=1)
    sources: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [state.name for state in self.states]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InputError("states", repeated, "every state once, under a name of its own")
        for index, state in enumerate(self.states):
            for name in state.to:
                if name not in names or name == state.name:
                    others = [other for other in names if other != state.name]
                    raise UnknownNameError(f"states[{index}].to", name, others)
            leaving = sum(state.to.values())
            if leaving > 1 + ROUNDING:
                raise InputError(f"states[{index}].to", leaving, "probabilities that add up to at most 1")
        return self

    @property
    def probabilities(self) -> list[list[float]]:
        """From each state to each, staying included."""
        rows = [[state.to.get(other.name, 0.0) for other in self.states] for state in self.states]
        for index, row in enumerate(rows):
            row[index] = max(1.0 - sum(row), 0.0)
        return rows

    def __repr__(self) -> str:
        from dora_nb.render.briefly import chain_text  # a method that looks up a room: imported when called

        return chain_text(self)

    __str__ = __repr__
