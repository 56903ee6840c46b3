"""The headline comparison: every verdict in plain words, the paper's figures as the paper's, charts with units."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from cells import cell
from rich.console import Console

from dora_nb.render.dots import Scale, dots_svg
from dora_nb.render.html import page
from dora_nb.render.reproduction import (
    reproduction_sentences,
    reproduction_tables,
    reproduction_text,
    row_groups,
    verdict_words,
)
from dora_nb.render.reproduction_html import reproduction_html
from dora_nb.reproduction import OURS, Cell, Reproduction, ranges
from dora_nb.reproduction.summary import PAPER_SAVING, PAPER_SPEEDUP, headlines

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert(\"1\")</script> & 'x'\n\x1b[31m [/red] ]]>"


def cells(
    ours: float | None, theirs: dict[str, tuple[float | None, float]], *, kept: float = 1.0, **facts: Any
) -> list[Cell]:
    """Our answer to one question and those of baselines: the figure asked for, and the QoE kept."""
    made = []
    for name, (value, share) in {OURS: (ours, kept), **theirs}.items():
        planner, _, transfers = name.partition(", ")
        made.append(cell(planner, value, share, transfers=transfers or "list-scheduled", **facts))
    return made


def result(*groups: list[Cell]) -> Reproduction:
    every = tuple(cell for group in groups for cell in group)
    return Reproduction(cells=every, summary=ranges(every), wall_s=3.0)


@pytest.fixture(scope="module")
def found() -> Reproduction:
    """All verdicts under both headlines, and one baseline that is far away."""
    speed = [
        cells(2.0, {"alpha": (3.0, 1.0), "beta": (400.0, 0.0), "beta, fair-shared": (900.0, 0.0)}, model="quick"),
        cells(2.0, {"alpha": (2.0, 1.0), "beta": (4.0, 0.0)}, model="even"),
        cells(2.1, {"alpha, fair-shared": (2.0, 0.5), "beta": (None, 0.0)}, model="slow", dynamic=True, kept=0.975),
    ]
    energy = [
        cells(3.0, {"alpha": (4.0, 1.0), "beta": (0.5, 0.2)}, objective="energy", energy_accounting=accounting, **facts)
        for accounting in ("participating", "all-on")
        for facts in ({"model": "quick"}, {"model": "quick", "dynamic": True, "kept": 0.9})
    ]
    alone = cells(3.0, {"alpha": (2.0, 0.4), "beta": (None, 0.0)}, objective="energy", model="lone", kept=0.6)
    return result(*speed, *energy, alone)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (cells(2.0, {"a": (2.5, 1.0)}), "1.25x"),
        (cells(2.0, {"a": (2.008, 1.0)}), "1.004x"),
        (cells(2.0, {"a": (25.0, 0.0)}), "12.5x"),
        (cells(2.0, {"a": (2.0, 1.0)}), "no gain"),
        (cells(2.05, {"a": (2.0, 1.0)}), "worse by 2.5 %"),
        (cells(4.0, {"a": (2.0, 1.0)}), "worse by 100 %"),
        (cells(3.0, {"a": (4.0, 1.0)}, objective="energy"), "25 % less"),
        (cells(3.0, {"a": (3.0, 1.0)}, objective="energy"), "no gain"),
        (cells(3.3, {"a": (3.0, 1.0)}, objective="energy"), "worse by 10 %"),
        (cells(3.0, {"a": (4.0, 1.0)}, objective="energy", kept=0.9), "keeps less QoE"),
        (cells(3.0, {"a": (1.0, 0.5)}, objective="energy"), "no baseline keeps as much"),
        (cells(3.0, {"a": (None, 0.0)}, objective="energy"), "no baseline has a plan"),
        (cells(None, {"a": (1.0, 0.5)}, kept=0.0), "ours has no figure"),
    ],
)
def test_every_verdict_is_said_plainly(group: list[Cell], said: str) -> None:
    (row,) = headlines(group)
    assert verdict_words(row) == said


def test_each_headline_has_its_own_table_and_the_two_are_never_claimed_at_once(found: Reproduction) -> None:
    groups = [(objective, accounting) for objective, accounting, _ in row_groups(found.headlines)]
    assert groups == [("latency", None), ("energy", "participating"), ("energy", "all-on")]
    titles = [str(table.title) for table in reproduction_tables(found)]
    assert titles[:3] == [
        "Fastest",
        "Least energy within the latency limit, counting the plan's devices (participating)",
        "Least energy within the latency limit, counting every device of the cluster (all-on)",
    ]
    assert len(titles) == 6
    assert "alternatives, never claimed at once" in reproduction_sentences(found)[0]


def test_the_text_has_all_figures_and_fits(found: Reproduction) -> None:
    text = repr(found)
    assert text == reproduction_text(found)
    assert max(map(len, text.splitlines())) <= 110
    rows = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    assert "quick, training no 2 s alpha 3 s 1.50x 100 / 100" in rows
    assert "slow, training yes 2.1 s alpha, fair-shared 2 s worse by 5.0 % 97.5 / 50" in rows
    (lone,) = [row for row in rows if row.startswith("lone, training no 3 J - - no baseline")]
    assert lone.endswith("60 / 40")
    assert "the strongest in each setting 1.00-1.50x 1.25x 1/1/0/0 0.95x 0.95x 0/0/1/0" in rows
    assert "beta 2.00-200.0x 101.0x 2/0/0/0 - - 0/0/0/1" in rows


def test_nothing_is_cut_off_where_names_are_long() -> None:
    group = cells(
        64.25, {"memory-proportional, fair-shared": (60.0, 0.775)}, model="qwen3-0.6b", mode="inference", kept=0.975
    )
    thrifty = cells(
        64.25,
        {"best single device, fair-shared": (70.0, 1.0)},
        objective="energy",
        model="qwen3-0.6b",
        mode="inference",
        kept=0.975,
    )
    text = repr(result(group, thrifty))
    assert max(map(len, text.splitlines())) <= 110
    for whole in ("qwen3-0.6b, inference", "64.2 s", "memory-proportional,", "worse by 7.1 %", "97.5 / 77.5"):
        assert whole in text
    for whole in ("best single device,", "keeps less QoE", "97.5 / 100", "QoE kept, %\n"):
        assert whole in text


def test_the_text_shows_nothing_by_itself_in_a_notebook(
    found: Reproduction, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There rich displays what it is to print, whatever it is to print to, unless told otherwise."""
    outside = repr(found)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(found) == outside
    assert not capsys.readouterr().out


def test_the_sentences_count_what_is_gained_and_what_is_not(found: Reproduction) -> None:
    text = "\n".join(reproduction_sentences(found))
    assert "Fastest, without dynamics: 1.00-1.50 times as fast as the strongest baseline, median 1.25x; a gain" in text
    assert "a gain in 0 of 1 setting, worse in 1; QoE kept in 97.5 % of the windows, by the baseline" in text
    assert "a gain in 1 of 2 settings, no baseline that compares in 1;" in text
    assert "For 1 answer about energy no baseline keeps as much QoE as ours" in text
    assert "For 2 answers about energy ours keeps less QoE than the strongest baseline: that is" in text


def test_a_saving_below_nothing_is_said_to_be_more() -> None:
    worse = result(cells(3.3, {"a": (3.0, 1.0)}, objective="energy"))
    said = "-10 % less than the strongest baseline (negative: more), median -10 %; a gain in 0 of 1 setting, worse"
    assert said in "\n".join(reproduction_sentences(worse))


def test_without_any_baseline_that_compares_nothing_is_claimed() -> None:
    nothing = result(cells(3.0, {"a": (2.0, 0.4)}, objective="energy"))
    (line,) = [line for line in reproduction_sentences(nothing) if line.startswith("Least energy")]
    assert "no baseline compares in any of 1 setting" in line
    assert "more QoE" in reproduction_html(nothing)


def test_the_papers_figures_are_the_papers_and_the_differences_are_said(found: Reproduction) -> None:
    text = "\n".join(reproduction_sentences(found))
    assert (
        "The paper's own figures, on its own deployments and against its own baselines: 1.1-6.3x faster, or 21-82 % "
        "less energy (Dora: QoE-Aware Hybrid Parallelism for Distributed Edge AI, arXiv 2512.10990, abstract). They "
        "are not ours." in text
    )
    for difference in ("not at hand", "simulated, none is measured", "assumed", "own re-implementations"):
        assert difference in text
    for line in [line for line in text.splitlines() if "6.3" in line or "82 %" in line]:
        assert "paper's own" in line


def test_tables_show_brackets_as_they_are() -> None:
    screen = io.StringIO()
    odd = result(cells(2.0, {"[bold]a[/red]": (3.0, 1.0)}, deployment="[home]"))
    for table in reproduction_tables(odd):
        Console(file=screen, width=110).print(table)
    assert "[bold]a[/red]" in screen.getvalue()
    assert "[home]" in screen.getvalue()


def figures(markup: str) -> list[ET.Element]:
    """The charts, read as XML; icons of the legend are not among them."""
    return [ET.fromstring(each) for each in re.findall(r"<svg xmlns.*?</svg>", markup, re.DOTALL)]


def texts(root: ET.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def test_the_html_fetches_and_runs_nothing(found: Reproduction) -> None:
    markup = found._repr_html_()
    assert markup == reproduction_html(found)
    tags = {each.lower() for each in re.findall(r"<([a-zA-Z]+)", markup)}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"}
    assert not re.search(r"\s(on\w+|src|href|xlink:href)=", markup)
    assert "url(" not in markup
    assert "@import" not in markup
    assert re.findall(r"https?://[^\"\s<]+", markup) == ["http://www.w3.org/2000/svg"] * len(figures(markup))
    assert page("title", markup).count("</html>") == 1


def test_markup_in_names_is_text() -> None:
    odd = result(
        cells(2.0, {NASTY: (3.0, 1.0)}, deployment=NASTY, model=NASTY),
        cells(2.0, {NASTY: (3.0, 0.1)}, deployment=NASTY, model=NASTY, objective="energy"),
    )
    markup = reproduction_html(odd)
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert "\x1b" not in markup + repr(odd)
    assert len(figures(markup)) == 2


def test_every_axis_has_a_unit_and_every_band_is_labelled_as_the_papers(found: Reproduction) -> None:
    charts = figures(reproduction_html(found))
    assert len(charts) == 6
    for chart in charts:
        said = texts(chart)
        speed = "times as fast as a baseline (log scale)" in said
        assert speed or "energy saved against a baseline (%)" in said
        assert ("the paper's own: 1.1-6.3x" if speed else "the paper's own: 21-82 %") in said
        ticks = [each for each in said if re.fullmatch(r"-?[\d,.]+x" if speed else r"-?\d+", each)]
        assert len(ticks) >= 4
        assert {each.get("fill") for each in chart.iter(f"{SVG}text")} == {"currentColor"}
        assert chart.get("aria-label")
    legends = re.findall(r"<span>(the paper's own[^<]*|the paper&#x27;s own[^<]*)</span>", reproduction_html(found))
    assert len(legends) == 3
    assert all("on its deployments and against its baselines" in each for each in legends)


def test_a_row_has_a_mark_for_every_baseline_that_ran_where_its_gain_is(found: Reproduction) -> None:
    rows = [row for row in found.headlines if row.objective == "latency" and not row.dynamic]
    scale = Scale.of(rows, True, PAPER_SPEEDUP)
    chart = ET.fromstring(dots_svg(rows, scale, "Without dynamics", [verdict_words(row) for row in rows]))
    marks = [group for group in chart.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    assert len(marks) == 5
    tips = [group.findtext(f"{SVG}title") or "" for group in marks]
    assert "alpha, list-scheduled: 3 s, ours 2 s; QoE kept 100 %, ours 100 %" in tips
    assert sum(group.find(f"{SVG}path") is not None for group in marks) == 2, "beyond 100 times as fast"
    ticks = {text.text: float(text.get("x", "nan")) for text in chart.iter(f"{SVG}text")}
    strongest = marks[tips.index("alpha, list-scheduled: 3 s, ours 2 s; QoE kept 100 %, ours 100 %")].find(
        f"{SVG}circle"
    )
    assert strongest is not None
    at_px = ticks["1x"] + (ticks["10x"] - ticks["1x"]) * math.log10(1.5)
    assert float(strongest.get("cx", "nan")) == pytest.approx(at_px, abs=0.02)
    assert [each.text for each in chart.iter(f"{SVG}text") if each.text in ("1.50x", "no gain")] == ["1.50x", "no gain"]


def test_scales_hold_everything_but_rare_extremes(found: Reproduction) -> None:
    energy = [row for row in found.headlines if row.objective == "energy"]
    scale = Scale.of(energy, False, PAPER_SAVING)
    assert scale.low <= -0.1
    assert scale.high == 1.0
    assert scale.on(-9.0) == scale.low
    wide = Scale.of([row for row in found.headlines if row.objective == "latency"], True, PAPER_SPEEDUP)
    assert wide.low < 0.95
    assert 100 <= wide.high < 130
