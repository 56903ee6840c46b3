"""The paper's headline comparison as tables for a terminal and as text, the paper's own ranges beside ours."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.render import dots, words
from dora_nb.render.wrapping import WIDTH, wrapped
from dora_nb.units import counted

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from dora_nb.reproduction.run import Reproduction
    from dora_nb.reproduction.summary import Gains, HeadlineRow, Paper, Ranges


#: The two headline modes: alternatives, each on its own.
MODES = {"latency": "Fastest", "energy": "Least energy within the latency limit"}

#: With and without dynamics.
WHEN = {False: "without dynamics", True: "under dynamics"}

#: What stands under a table of one headline, and under one of ranges.
CAPTION = (
    "Transfers are list-scheduled where it does not say fair-shared. QoE kept: per cent of the windows, ours / the "
    "strongest's (the most that any baseline keeps where none keeps as much as ours)."
)
COUNTS = (
    "g/n/w/x: settings with a gain, with none, in which ours is worse, and in which the other one has no plan or keeps "
    "less QoE, so that nothing is claimed."
)

#: Where our comparison and the paper's differ.
DIFFERENCES = (
    "The paper's deployments are not at hand. Ours, what happens to them, the models and the latency limits are our "
    "own choice, fixed before any figure was known.",
    "All figures are simulated, none is measured. Part of what they rest on is assumed, energy above all: the watts of "
    "some devices and the joules per byte.",
    "The baselines are our own re-implementations. Each may choose among all micro-batch sizes and runs twice: with "
    "list-scheduled transfers, which the paper it is from does not give it, and with the network shared fairly.",
    "Gains are over whichever of these is strongest in each setting.",
)


def reproduction_text(result: Reproduction) -> str:
    """The comparison as plain text of at most 110 columns."""
    from rich.console import Console

    screen = io.StringIO()
    # In a notebook rich would show the tables at once instead of writing them.
    console = Console(file=screen, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    for table in reproduction_tables(result):
        console.print(table)
        console.print()
    tables = "\n".join(line.rstrip() for line in screen.getvalue().splitlines())
    said = [wrapped(line) for line in reproduction_sentences(result)]
    return "\n".join([tables, *said])


def reproduction_tables(result: Reproduction) -> list[Table]:
    """Tables for a terminal of 110 columns or more: one for each headline, then one with ranges for each."""
    return [
        *(_headline_table(*group) for group in row_groups(result.headlines)),
        *(_range_table(*group) for group in range_groups(result.summary)),
    ]


def reproduction_sentences(result: Reproduction) -> list[str]:
    """What the tables come to, the paper's own figures, and where the two comparisons differ."""
    lines = ["The two headlines are alternatives, never claimed at once."]
    for objective, accounting, kinds in range_groups(result.summary):
        mode = MODES[objective] + (f" ({accounting})" if accounting else "")
        lines += [f"{mode}, {WHEN[kind.dynamic]}: {range_words(kind)}" for kind in kinds]
    lines += [*qoe_lines(result.headlines), paper_words(result.paper), *DIFFERENCES]
    return [words.one_line(line) for line in lines]


# ------------------------------------------------------------------ in words


def paper_words(paper: Paper) -> str:
    """The paper's headline, as its own."""
    speed, saving = dots.range_words(paper.speedup, True), dots.range_words(paper.saving, False)
    return (
        f"The paper's own figures, on its own deployments and against its own baselines: {speed} faster, or {saving} "
        f"less energy ({paper.source}). They are not ours."
    )


def verdict_words(row: HeadlineRow) -> str:
    """What is gained over the strongest baseline: ``1.12x``, ``17 % less``, ``no gain``, ``worse by 2.5 %``."""
    gain = row.gain
    if row.verdict == "missing":
        return "ours has no figure"
    if row.keeps_less:
        return "keeps less QoE"
    if gain is None:
        runs = any(each.value is not None for each in row.others)
        return "no baseline keeps as much" if runs else "no baseline has a plan"
    if row.verdict == "nothing":
        return "no gain"
    if row.verdict == "worse":
        above = 1 / gain - 1 if row.objective == "latency" else -gain  # both: ours above theirs
        return f"worse by {_percent(above)}"
    if row.objective == "latency":
        return f"{gain:.3f}x" if gain < 1.0095 else _times(gain)
    return f"{_percent(gain)} less"


def range_words(kind: Ranges) -> str:
    """Gains over the strongest baseline in one kind of cells, and the QoE kept."""
    gains, speed = kind.strongest, kind.objective == "latency"
    most = f"by the baseline that keeps most {_share(kind.qoe_kept_strongest)}"
    kept = f"QoE kept in {_share(kind.qoe_kept)} of the windows, {most}"
    settings = counted(gains.cells + gains.unmatched, "setting")
    if not gains.cells:
        return f"no baseline compares in any of {settings}; {kept}."
    ends = _range(gains, speed).removesuffix("x")
    over = "times as fast as the strongest baseline" if speed else "less than the strongest baseline"
    over += " (negative: more)" if ends.startswith("-") else ""
    found = [
        f"a gain in {_gained(gains)} of {settings}",
        f"none in {gains.nothing}" if gains.nothing else "",
        f"worse in {gains.worse}" if gains.worse else "",
        f"no baseline that compares in {gains.unmatched}" if gains.unmatched else "",
    ]
    return f"{ends} {over}, median {_middle(gains, speed)}; {', '.join(filter(None, found))}; {kept}."


def qoe_lines(rows: Iterable[HeadlineRow]) -> list[str]:
    """Where less energy is not the whole answer."""
    rows = [row for row in rows if row.objective == "energy"]
    more, less = sum(row.verdict == "unmatched" for row in rows), sum(row.keeps_less for row in rows)
    lines = []
    if more:
        lines.append(
            f"For {counted(more, 'answer')} about energy no baseline keeps as much QoE as ours: the gain is in QoE "
            "there, and no energy is claimed."
        )
    if less:
        lines.append(
            f"For {counted(less, 'answer')} about energy ours keeps less QoE than the strongest baseline: that is "
            "counted as worse, whatever the energy."
        )
    return lines


def row_cells(row: HeadlineRow) -> tuple[str, str, str, str, str]:
    """Ours, the strongest baseline, its figure, the gain, and the QoE kept by both in per cent."""
    best, say = row.strongest, words.seconds_words if row.objective == "latency" else words.joules_words
    kept = row.most_kept if best is None else best.qoe_kept
    return (
        words.NOTHING if row.value is None else say(row.value),
        words.NOTHING if best is None else name_words(f"{best.planner}, {best.transfers}"),
        words.NOTHING if best is None or best.value is None else say(best.value),
        verdict_words(row),
        f"{100 * row.qoe_kept:.3g} / {words.NOTHING if kept is None else f'{100 * kept:.3g}'}",
    )


def name_words(by: str) -> str:
    """A baseline with how its transfers share the network, where they are not list-scheduled."""
    return words.one_line(by.removesuffix(", list-scheduled"))


def range_cells(gains: Gains | None, speed: bool) -> tuple[str, str, str]:
    """Lowest to highest gain, the median, and how many settings of what kind."""
    if gains is None:
        return (words.NOTHING,) * 3
    counts = f"{_gained(gains)}/{gains.nothing}/{gains.worse}/{gains.unmatched}"
    return _range(gains, speed), _middle(gains, speed), counts


def _gained(gains: Gains) -> int:
    return gains.cells - gains.nothing - gains.worse


def _range(gains: Gains, speed: bool) -> str:
    if gains.lowest is None or gains.highest is None:
        return words.NOTHING
    say = _times if speed else _percent
    if say(gains.lowest) == say(gains.highest):
        return say(gains.lowest)
    if speed:
        return f"{_times(gains.lowest).removesuffix('x')}-{_times(gains.highest)}"
    between = " to " if _percent(gains.lowest).startswith("-") else "-"
    return f"{_percent(gains.lowest).removesuffix(' %')}{between}{_percent(gains.highest)}"


def _middle(gains: Gains, speed: bool) -> str:
    if gains.median is None:
        return words.NOTHING
    return _times(gains.median) if speed else _percent(gains.median)


def _times(gain: float) -> str:
    return f"{gain:,.{2 if gain < 10 else 1}f}x"


def _percent(share: float) -> str:
    percent = 100 * share
    text = f"{percent:.{0 if abs(percent) >= 9.95 else 1}f}"
    return f"{'0' if float(text) == 0 else text} %"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


# ------------------------------------------------------------------ what stands together


def row_groups(rows: Iterable[HeadlineRow]) -> Iterator[tuple[str, EnergyAccounting | None, list[HeadlineRow]]]:
    """Rows of one headline and accounting; of the fastest the first one only, as no accounting changes what is asked.

    Setting by setting, without dynamics first.
    """
    rows = list(rows)
    order = {setting: place for place, setting in enumerate(dict.fromkeys(row.setting for row in rows))}
    rows.sort(key=lambda row: (order[row.setting], row.dynamic))
    for objective in MODES:
        for accounting in _accountings(objective, rows):
            own = [row for row in rows if (row.objective, row.energy_accounting) == (objective, accounting)]
            yield objective, None if objective == "latency" else accounting, own


def range_groups(summary: Iterable[Ranges]) -> Iterator[tuple[str, EnergyAccounting | None, list[Ranges]]]:
    """As rows are grouped."""
    kinds = sorted(summary, key=lambda kind: kind.dynamic)
    for objective in MODES:
        for accounting in _accountings(objective, kinds):
            own = [kind for kind in kinds if (kind.objective, kind.energy_accounting) == (objective, accounting)]
            yield objective, None if objective == "latency" else accounting, own


def _accountings(objective: str, each: Sequence[HeadlineRow] | Sequence[Ranges]) -> list[EnergyAccounting]:
    found = list(dict.fromkeys(one.energy_accounting for one in each if one.objective == objective))
    return found[:1] if objective == "latency" else found


def range_rows(kinds: Sequence[Ranges]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The strongest, then every baseline: its name, and a range, a median and counts for every kind."""
    found = [{gains.over: gains for gains in (kind.strongest, *kind.each)} for kind in kinds]
    for name in dict.fromkeys(itertools.chain.from_iterable(found)):
        label = "the strongest in each setting" if name == "strongest" else name_words(name)
        yield label, [range_cells(own.get(name), kinds[0].objective == "latency") for own in found]


def range_title(objective: str, accounting: EnergyAccounting | None) -> str:
    """What a table of ranges is about."""
    what = "Times as fast as each baseline" if objective == "latency" else "Energy saved against each baseline"
    return what + counted_words(accounting)


def counted_words(accounting: EnergyAccounting | None) -> str:
    """Whose energy counts, after a comma."""
    return f", {words.COUNTED[accounting]} ({accounting})" if accounting else ""


# ------------------------------------------------------------------ tables


def _headline_table(objective: str, accounting: EnergyAccounting | None, rows: Sequence[HeadlineRow]) -> Table:
    """Two lines a setting, as both halves do not fit beside one another: without dynamics, and under dynamics."""
    table = _table(MODES[objective] + counted_words(accounting), CAPTION)
    for heading in ("setting", "dynamics", "ours", "strongest baseline", "its", "gain", "QoE kept, %"):
        words_in_it = heading in ("strongest baseline", "gain")  # broken into lines where they are long
        left = words_in_it or heading in ("setting", "dynamics")
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=not words_in_it, min_width=14 if words_in_it else None
        )
    for deployment, own in itertools.groupby(rows, key=lambda row: row.deployment):
        table.add_row(_plain(deployment))
        for (_, model, mode), both in itertools.groupby(own, key=lambda row: row.setting):
            name = f"  {words.shorten(model, 24)}, {mode}"
            for row in both:
                table.add_row(_plain(name), "yes" if row.dynamic else "no", *map(_plain, row_cells(row)))
                name = ""
    return table


def _range_table(objective: str, accounting: EnergyAccounting | None, kinds: Sequence[Ranges]) -> Table:
    table = _table(range_title(objective, accounting), COUNTS)
    table.add_column("over")
    for kind in kinds:
        for heading in (f"{'dynamic' if kind.dynamic else 'static'}: range", "median", "g/n/w/x"):
            table.add_column(heading, justify="right", no_wrap=True)
    for place, (name, cells) in enumerate(range_rows(kinds)):
        figures = itertools.chain.from_iterable(cells)
        table.add_row(_plain(name), *map(_plain, figures), style="bold" if not place else "")
    return table


def _table(title: str, caption: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _plain(text: str) -> Text:
    """Text in which square brackets are no markup."""
    from rich.text import Text

    return Text(words.one_line(text))
