"""What all cells come to: ranges of speedups and savings, over the strongest baseline and over each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.reproduction.cell import OURS, Cell, Headline, Transfers

#: What the paper states in its abstract, of its own deployments: these are its figures, not ours.
PAPER_SOURCE = "Dora: QoE-Aware Hybrid Parallelism for Distributed Edge AI, arXiv 2512.10990, abstract"
PAPER_SPEEDUP, PAPER_SAVING = (1.1, 6.3), (0.21, 0.82)


@dataclass(frozen=True)
class Paper:
    """The paper's own ranges, for standing beside ours.

    Attributes
    ----------
    speedup
        Times as fast.
    saving
        Shares of the energy.
    source
        Where it says so.
    """

    speedup: tuple[float, float] = PAPER_SPEEDUP
    saving: tuple[float, float] = PAPER_SAVING
    source: str = PAPER_SOURCE


#: Gains below this are none: our plans are proven to no smaller gap.
NOTHING = 1e-3


class Gains(Record):
    """Gains over one planner, or over whichever is strongest in each cell.

    Attributes
    ----------
    over
        Whom they are over.
    lowest, median, highest
        Times as fast (``latency``), or the share of the energy saved (``energy``); None without any cell.
    cells
        Cells in which the other one has a plan and, for energy, keeps as much QoE.
    nothing
        Of those, cells in which nothing is gained.
    worse
        Of those, cells in which ours is worse, or keeps less QoE: then there is no gain to state.
    unmatched
        Further cells, in which the other one has no plan or keeps less QoE than ours.
    """

    over: str
    lowest: float | None
    median: float | None
    highest: float | None
    cells: int = Field(ge=0)
    nothing: int = Field(ge=0)
    worse: int = Field(ge=0)
    unmatched: int = Field(ge=0)


class Ranges(Record):
    """Gains in one kind of cells.

    Attributes
    ----------
    objective
        ``latency``: gains are how many times as fast. ``energy``: shares of the energy saved.
    dynamic, energy_accounting
        Which cells.
    strongest
        Over the best of all baselines, cell by cell.
    each
        Over every baseline.
    qoe_kept, qoe_kept_strongest
        Mean share of the windows kept, by us and by the baseline that keeps most in each cell.
    """

    objective: Headline
    dynamic: bool
    energy_accounting: EnergyAccounting
    strongest: Gains
    each: tuple[Gains, ...]
    qoe_kept: float
    qoe_kept_strongest: float


#: How ours stands to the strongest baseline. ``unmatched``: none keeps as much QoE, or none has a plan. ``missing``: we
#: have no figure ourselves.
Verdict = Literal["gain", "nothing", "worse", "unmatched", "missing"]


@dataclass(frozen=True)
class Answer:
    """A baseline's answer to a question, held against ours.

    Attributes
    ----------
    planner, transfers
        Whose it is.
    value
        Seconds or joules of an iteration or batch; None: no plan, or nothing ended.
    qoe_kept
        Share of the windows.
    gain
        As in :func:`gain`; None where it does not compare.
    apparent
        What the gain would be if it kept as much QoE as ours; None without a figure.
    """

    planner: str
    transfers: Transfers
    value: float | None
    qoe_kept: float
    gain: float | None
    apparent: float | None


@dataclass(frozen=True)
class HeadlineRow:
    """One question with our answer and everybody else's.

    Attributes
    ----------
    deployment, model, mode, dynamic, objective, energy_accounting
        The question.
    value, qoe_kept
        Ours: seconds or joules of an iteration or batch (None: no figure), and the share of the windows.
    strongest
        The best baseline that keeps as much QoE; None if there is none.
    others
        All baselines.
    verdict
        How ours stands to the strongest.
    """

    deployment: str
    model: str
    mode: str
    dynamic: bool
    objective: Headline
    energy_accounting: EnergyAccounting
    value: float | None
    qoe_kept: float
    strongest: Answer | None
    others: tuple[Answer, ...]
    verdict: Verdict

    @property
    def setting(self) -> tuple[str, str, str]:
        """What runs where."""
        return (self.deployment, self.model, self.mode)

    @property
    def gain(self) -> float | None:
        """Over the strongest baseline; None where there is none."""
        return None if self.strongest is None else self.strongest.gain

    @property
    def most_kept(self) -> float | None:
        """The largest share of the windows that any baseline keeps; None without baselines."""
        return max((each.qoe_kept for each in self.others), default=None)

    @property
    def keeps_less(self) -> bool:
        """Whether, for energy, the strongest baseline keeps more QoE than ours."""
        if self.objective == "latency" or self.strongest is None:
            return False
        return self.strongest.qoe_kept > self.qoe_kept + ROUNDING


def headlines(cells: Iterable[Cell]) -> tuple[HeadlineRow, ...]:
    """Our answer to every question beside the baselines', in the order of the cells."""
    rows = []
    for ours, others in rivals(cells):
        best = strongest(ours, others)
        rows.append(
            HeadlineRow(
                *ours.question,
                value=ours.value,
                qoe_kept=ours.qoe_kept,
                strongest=None if best is None else _answer(ours, best),
                others=tuple(_answer(ours, each) for each in others),
                verdict=_verdict(ours, best),
            )
        )
    return tuple(rows)


def _answer(ours: Cell, other: Cell) -> Answer:
    as_if = other.model_copy(update={"qoe_kept": ours.qoe_kept})
    return Answer(other.planner, other.transfers, other.value, other.qoe_kept, gain(ours, other), gain(ours, as_if))


def _verdict(ours: Cell, best: Cell | None) -> Verdict:
    if ours.value is None:
        return "missing"
    if best is None:
        return "unmatched"
    if not ours.not_worse(best, NOTHING):
        return "worse"
    return "gain" if (gain(ours, best) or 0.0) > _neutral(ours) + NOTHING else "nothing"


def strongest(ours: Cell, others: Iterable[Cell]) -> Cell | None:
    """The best of the baselines that answer a question as well as we do; None if there is none.

    For energy one that keeps more QoE goes before one that takes less.
    """
    able = [each for each in others if each.comparable(ours)]
    return min(able, key=lambda each: (ours.objective == "energy" and -each.qoe_kept, each.value or 0.0), default=None)


def gain(ours: Cell, other: Cell | None) -> float | None:
    """Times as fast as another planner, or the share of its energy that is saved.

    None where there is nothing to compare: no plan on one side or, for energy, QoE that is kept less by one of them.
    """
    if other is None or ours.value is None or other.value is None:
        return None
    if not (other.comparable(ours) and ours.comparable(other)):
        return None
    return other.value / ours.value if ours.objective == "latency" else 1 - ours.value / other.value


def _neutral(cell: Cell) -> float:
    """The gain of what gains nothing."""
    return 1.0 if cell.objective == "latency" else 0.0


def ranges(cells: Sequence[Cell]) -> tuple[Ranges, ...]:
    """Every kind of cells that there is, in the order of the cells."""
    kinds = dict.fromkeys(
        (each.objective, each.dynamic, each.energy_accounting) for each in cells if each.planner == OURS
    )
    return tuple(_ranges(*kind, cells) for kind in kinds)


def rivals(cells: Iterable[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Each of our cells with the baselines' answers to the same question."""
    by_question: dict[tuple[object, ...], list[Cell]] = {}
    for each in cells:
        by_question.setdefault(each.question, []).append(each)
    return [
        (ours, [each for each in own if each.planner != OURS])
        for own in by_question.values()
        for ours in own
        if ours.planner == OURS
    ]


def _ranges(objective: Headline, dynamic: bool, accounting: EnergyAccounting, cells: Sequence[Cell]) -> Ranges:
    pairs = rivals(
        each
        for each in cells
        if (each.objective, each.dynamic, each.energy_accounting) == (objective, dynamic, accounting)
    )
    names = dict.fromkeys(other.by for _, others in pairs for other in others)
    return Ranges(
        objective=objective,
        dynamic=dynamic,
        energy_accounting=accounting,
        strongest=_gains("strongest", [(ours, strongest(ours, others)) for ours, others in pairs]),
        each=tuple(
            _gains(name, [(ours, other) for ours, others in pairs for other in others if other.by == name])
            for name in names
        ),
        qoe_kept=float(np.mean([ours.qoe_kept for ours, _ in pairs])),
        qoe_kept_strongest=float(np.mean([max((each.qoe_kept for each in own), default=0.0) for _, own in pairs])),
    )


def _gains(over: str, pairs: Sequence[tuple[Cell, Cell | None]]) -> Gains:
    found = [(ours, other) for ours, other in pairs if other is not None and other.comparable(ours)]
    values = [each for each in itertools.starmap(gain, found) if each is not None]
    verdicts = list(itertools.starmap(_verdict, found))
    return Gains(
        over=over,
        lowest=min(values, default=None),
        median=float(np.median(values)) if values else None,
        highest=max(values, default=None),
        cells=len(found),
        nothing=verdicts.count("nothing"),
        worse=verdicts.count("worse") + verdicts.count("missing"),
        unmatched=len(pairs) - len(found),
    )
