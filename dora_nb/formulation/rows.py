"""Linear programs: variables, linear forms of them, and rows by family, handed to linopy all at once.

An expression of linopy a row takes a hundred times as long as one array for a whole family of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints

if TYPE_CHECKING:
    import linopy

Sense = Literal["<=", ">=", "="]

#: One for each variable, or one for all.
Weights = Floats | Ints | NDArray[np.bool_] | float


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A linear form: the sum of weight x variable, and a constant; or several, with as many terms each.

    Attributes
    ----------
    at
        Variables, shape (terms,) or (forms, terms); one that comes twice counts twice.
    weight
        Of every term, same shape.
    constant
        Of every form.
    """

    at: Ints
    weight: Floats
    constant: float = 0.0

    __array_ufunc__: ClassVar[None] = None  # so that a factor that is numpy's leaves the product to the form

    def __add__(self, other: Form) -> Form:
        at = np.concatenate((self.at, other.at), axis=-1)
        return Form(at, np.concatenate((self.weight, other.weight), axis=-1), self.constant + other.constant)

    def __sub__(self, other: Form) -> Form:
        at = np.concatenate((self.at, other.at), axis=-1)
        return Form(at, np.concatenate((self.weight, -other.weight), axis=-1), self.constant - other.constant)

    def __neg__(self) -> Form:
        return Form(self.at, -self.weight, -self.constant)

    def __rmul__(self, factor: float) -> Form:
        return Form(self.at, factor * self.weight, factor * self.constant)

    def __truediv__(self, divisor: float) -> Form:
        return Form(self.at, self.weight / divisor, self.constant / divisor)

    def weights_of(self, variables: Ints) -> Floats:
        """The weight of each of some variables in one form, 0 where it has no term."""
        size = int(variables.max(initial=-1)) + 1
        weights: Floats = np.bincount(self.at, self.weight, minlength=size).astype(float)
        return weights[variables]


def over(at: ArrayLike, weight: Weights = 1.0) -> Form:
    """The sum of weight x variable over variables in any shape, those of weight 0 left out."""
    variables = np.asarray(at, dtype=np.int64)
    weights = np.ones(variables.shape) * weight
    present = weights != 0
    return Form(variables[present], weights[present])


def each(at: Ints, weight: Weights = 1.0) -> Form:
    """As many forms as variables: weight x variable."""
    return Form(at[:, None], (np.ones(at.shape) * weight)[:, None])


def total(forms: Iterable[Form]) -> Form:
    """The sum of forms; of none, a form without terms."""
    added = list(forms)
    at = np.concatenate([np.zeros(0, dtype=np.int64), *(form.at for form in added)])
    return Form(at, np.concatenate([np.zeros(0), *(form.weight for form in added)]), sum(f.constant for f in added))


class Rows:
    """A program under construction; rows are found under the name of their family."""

    def __init__(self) -> None:
        import linopy  # heavy, and only needed here

        self._model: linopy.Model = linopy.Model()
        self._families: dict[str, list[tuple[Form, Sense, Floats]]] = {}

    def variables(
        self,
        name: str,
        shape: int | tuple[int, ...] = 1,
        *,
        lower: Floats | float = 0.0,
        upper: Floats | float = np.inf,
        kind: Literal["real", "integer", "binary"] = "real",
    ) -> Ints:
        """Add a block of variables; returns what forms call them, in the block's shape."""
        shape = (shape,) if isinstance(shape, int) else shape
        if 0 in shape:
            return np.zeros(shape, dtype=np.int64)
        coords, dims = [range(length) for length in shape], [f"{name}_{axis}" for axis in range(len(shape))]
        if kind == "binary":
            added = self._model.add_variables(binary=True, coords=coords, dims=dims, name=name)
        else:
            least, most = (np.array(np.broadcast_to(bound, shape), dtype=float) for bound in (lower, upper))
            whole = kind == "integer"
            added = self._model.add_variables(least, most, coords=coords, dims=dims, name=name, integer=whole)
        return np.asarray(added.labels.values, dtype=np.int64)

    def add(self, family: str, form: Form, sense: Sense, bound: Floats | float = 0.0) -> None:
        """Add the row ``form (<=, >=, =) bound``, or one for each of several forms."""
        at, weight = np.atleast_2d(form.at), np.atleast_2d(form.weight)
        bounds = np.ones(len(at)) * bound - form.constant
        if len(at):
            self._families.setdefault(family, []).append((Form(at, weight), sense, bounds))

    def build(self, objective: Form, sense: Literal["min", "max"] = "min") -> linopy.Model:
        """The program as a model; a constant of the objective is left out."""
        for family, blocks in self._families.items():
            self._hand_over(family, blocks)
        self._model.add_objective(self._expression(objective.at, objective.weight, ("_term",)), sense=sense)
        return self._model

    def _hand_over(self, family: str, blocks: list[tuple[Form, Sense, Floats]]) -> None:
        import xarray as xr

        heights, widths = (np.array([form.at.shape[axis] for form, _, _ in blocks]) for axis in (0, 1))
        count = int(heights.sum())
        at = np.concatenate([form.at.ravel() for form, _, _ in blocks])
        weight = np.concatenate([form.weight.ravel() for form, _, _ in blocks])
        row = np.repeat(np.arange(count), np.repeat(widths, heights))
        # Every variable once a row: a row's terms lie together, in the order of the variables.
        size = int(at.max(initial=0)) + 1
        terms, term = np.unique(row * size + at, return_inverse=True)
        weight = np.bincount(term, weight, minlength=len(terms))
        terms, weight = terms[weight != 0], weight[weight != 0]
        row, at = np.divmod(terms, size)
        lengths = np.bincount(row, minlength=count)
        column = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
        shape = (count, max(int(lengths.max(initial=0)), 1))
        variables, weights = np.full(shape, -1), np.full(shape, np.nan)
        variables[row, column], weights[row, column] = at, weight

        sign = xr.DataArray(np.repeat(np.array([sense for _, sense, _ in blocks]), heights), dims=["row"])
        bound = xr.DataArray(np.concatenate([bounds for _, _, bounds in blocks]), dims=["row"])
        expression = self._expression(variables, weights, ("row", "_term"))
        self._model.add_constraints(expression, sign, bound, name=family)

    def _expression(self, at: Ints, weight: NDArray[np.float64], dims: tuple[str, ...]) -> linopy.LinearExpression:
        import linopy
        import xarray as xr

        coords = {"row": range(len(at))} if "row" in dims else {}
        data = xr.Dataset({"coeffs": (dims, weight), "vars": (dims, at)}, coords=coords)
        return linopy.LinearExpression(data, self._model)
