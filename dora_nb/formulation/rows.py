"""Linear programs: variables, linear forms of them, and rows by family.

A program goes to a solver as plain arrays. A model of linopy, which has names for everything and writes files, is made
of it where one is wanted: that takes a hundred times as long as making the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.solvers.lineardata import LinearData

if TYPE_CHECKING:
    import linopy

Sense = Literal["<=", ">=", "="]

Kind = Literal["real", "integer", "binary"]

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


def single(at: Ints, weight: Weights = 1.0) -> Form:
    """As many forms as variables: weight x variable."""
    return Form(at[:, None], (np.ones(at.shape) * weight)[:, None])


def total(forms: Iterable[Form]) -> Form:
    """The sum of forms; of none, a form without terms."""
    added = list(forms)
    at = np.concatenate([np.zeros(0, dtype=np.int64), *(form.at for form in added)])
    return Form(at, np.concatenate([np.zeros(0), *(form.weight for form in added)]), sum(f.constant for f in added))


class Block(NamedTuple):
    """Variables of one name.

    Attributes
    ----------
    shape
        Of the block; its variables are numbered one after the other.
    lower, upper
        Bounds, one for each variable, flat.
    kind
        Of all of them.
    """

    shape: tuple[int, ...]
    lower: Floats
    upper: Floats
    kind: Kind


class Family(NamedTuple):
    """Rows of one name; every variable comes once a row, and a row's terms lie together.

    Attributes
    ----------
    row, at, weight
        Of every term.
    sense, bound
        Of every row.
    """

    row: Ints
    at: Ints
    weight: Floats
    sense: NDArray[np.str_]
    bound: Floats


@dataclass(frozen=True)
class LinearProgram:
    """A program that is complete.

    Attributes
    ----------
    blocks, families
        Variables and rows by name.
    objective, sense
        What is optimised; a constant is left out.
    """

    blocks: dict[str, Block]
    families: dict[str, Family]
    objective: Form
    sense: Literal["min", "max"]

    @property
    def nvars(self) -> int:
        """Number of variables."""
        return sum(len(block.lower) for block in self.blocks.values())

    @property
    def ncons(self) -> int:
        """Number of rows."""
        return sum(len(family.bound) for family in self.families.values())

    def linear_data(self) -> LinearData:
        """The program as a solver takes it."""
        from scipy.sparse import csr_array  # type: ignore[import-untyped]  # not needed to describe a problem

        blocks, families = list(self.blocks.values()), list(self.families.values())
        above = np.cumsum([0, *(len(family.bound) for family in families)])
        rows = [family.row + start for family, start in zip(families, above.tolist(), strict=False)]
        terms = [np.concatenate([np.zeros(0), *parts]) for parts in ([f.weight for f in families], rows)]
        at = np.concatenate([np.zeros(0, dtype=np.int64), *(family.at for family in families)])
        whole = np.repeat([block.kind != "real" for block in blocks], [len(block.lower) for block in blocks])
        columns, start = {}, 0
        for name, block in self.blocks.items():
            columns[name] = start + np.arange(len(block.lower)).reshape(block.shape)
            start += len(block.lower)
        return LinearData(
            cost=np.bincount(self.objective.at, self.objective.weight, minlength=start).astype(float),
            offset=0.0,
            maximise=self.sense == "max",
            lower=np.concatenate([block.lower for block in blocks]),
            upper=np.concatenate([block.upper for block in blocks]),
            integer=whole.astype(bool),
            matrix=csr_array((terms[0], (terms[1].astype(np.int64), at)), shape=(self.ncons, start)),
            sense=np.concatenate([np.zeros(0, dtype="U1"), *(family.sense.astype("U1") for family in families)]),
            rhs=np.concatenate([np.zeros(0), *(family.bound for family in families)]),
            columns=columns,
            column_scale=np.ones(start),
        )

    def linopy(self) -> linopy.Model:
        """The program as a model with names."""
        import linopy  # heavy, and only needed here

        model = linopy.Model()
        for name, (shape, lower, upper, kind) in self.blocks.items():
            coords, dims = [range(length) for length in shape], [f"{name}_{axis}" for axis in range(len(shape))]
            if kind == "binary":
                model.add_variables(binary=True, coords=coords, dims=dims, name=name)
                continue
            bounds = lower.reshape(shape), upper.reshape(shape)
            model.add_variables(*bounds, coords=coords, dims=dims, name=name, integer=kind == "integer")
        for name, family in self.families.items():
            _add_family(model, name, family)
        model.add_objective(_expression(model, self.objective.at, self.objective.weight, ("_term",)), sense=self.sense)
        return model


class Rows:
    """A program under construction; rows are found under the name of their family."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}
        self._families: dict[str, list[tuple[Form, Sense, Floats]]] = {}
        self._count = 0

    def variables(
        self,
        name: str,
        shape: int | tuple[int, ...] = 1,
        *,
        lower: Floats | float = 0.0,
        upper: Floats | float = np.inf,
        kind: Kind = "real",
    ) -> Ints:
        """Add a block of variables; returns what forms call them, in the block's shape.

        Parameters
        ----------
        name
            Of the block; values of a solution stand under it.
        shape
            Of the block.
        lower, upper
            Bounds of every variable, or of each; a binary's are 0 and 1.
        kind
            Real, integer or binary.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        if 0 in shape:
            return np.zeros(shape, dtype=np.int64)
        bounds = (0.0, 1.0) if kind == "binary" else (lower, upper)
        least, most = (np.array(np.broadcast_to(bound, shape), dtype=float).ravel() for bound in bounds)
        self._blocks[name] = Block(shape, least, most, kind)
        self._count += len(least)
        return np.arange(self._count - len(least), self._count).reshape(shape)

    def add(self, family: str, form: Form, sense: Sense, bound: Floats | float = 0.0) -> None:
        """Add the row ``form (<=, >=, =) bound``, or one for each of several forms.

        Parameters
        ----------
        family
            Name of rows of one kind.
        form
            Left side: one form, or several as the rows of its arrays.
        sense, bound
            How it compares with what; one bound for all rows, or one each.
        """
        at, weight = np.atleast_2d(form.at), np.atleast_2d(form.weight)
        bounds = np.ones(len(at)) * bound - form.constant
        if len(at):
            self._families.setdefault(family, []).append((Form(at, weight), sense, bounds))

    def build(self, objective: Form, sense: Literal["min", "max"] = "min") -> LinearProgram:
        """The program; a constant of the objective is left out."""
        families = {name: _family(blocks) for name, blocks in self._families.items()}
        return LinearProgram(self._blocks, families, objective, sense)


def _family(blocks: list[tuple[Form, Sense, Floats]]) -> Family:
    heights, widths = (np.array([form.at.shape[axis] for form, _, _ in blocks]) for axis in (0, 1))
    at = np.concatenate([form.at.ravel() for form, _, _ in blocks])
    weight = np.concatenate([form.weight.ravel() for form, _, _ in blocks])
    row = np.repeat(np.arange(int(heights.sum())), np.repeat(widths, heights))
    size = int(at.max(initial=0)) + 1
    terms, term = np.unique(row * size + at, return_inverse=True)
    weight = np.bincount(term, weight, minlength=len(terms))
    row, at = np.divmod(terms[weight != 0], size)
    sense = np.repeat(np.array([sense for _, sense, _ in blocks]), heights)
    return Family(row, at, weight[weight != 0], sense, np.concatenate([bounds for _, _, bounds in blocks]))


def _add_family(model: linopy.Model, name: str, family: Family) -> None:
    """Add a family to a model of linopy, as one array."""
    import xarray as xr

    count = len(family.bound)
    lengths = np.bincount(family.row, minlength=count)
    column = np.arange(len(family.row)) - (np.cumsum(lengths) - lengths)[family.row]
    shape = (count, max(int(lengths.max(initial=0)), 1))
    variables, weights = np.full(shape, -1), np.full(shape, np.nan)
    variables[family.row, column], weights[family.row, column] = family.at, family.weight
    sign, bound = xr.DataArray(family.sense, dims=["row"]), xr.DataArray(family.bound, dims=["row"])
    model.add_constraints(_expression(model, variables, weights, ("row", "_term")), sign, bound, name=name)


def _expression(
    model: linopy.Model, at: Ints, weight: NDArray[np.float64], dims: tuple[str, ...]
) -> linopy.LinearExpression:
    import linopy
    import xarray as xr

    coords = {"row": range(len(at))} if "row" in dims else {}
    data = xr.Dataset({"coeffs": (dims, weight), "vars": (dims, at)}, coords=coords)
    return linopy.LinearExpression(data, model)
