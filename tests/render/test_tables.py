"""Plan sets as frames and text: the figures are those of the plans, and everything fits."""

from __future__ import annotations

import io
import math
import re

import pytest
from builders import pipeline, workload
from rich.console import Console

from dora_nb.domain.coverage import Coverage
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.render import words
from dora_nb.render.tables import describe_plan, plan_frame, plan_sentences, plan_text, rich_table
from dora_nb.render.wrapping import wrapped
from dora_nb.units import counted, format_joules, format_seconds

COLUMNS = [
    "plan",
    "makespan_s",
    "period_s",
    "first_token_s",
    "token_s",
    "energy_participating_j",
    "energy_all_on_j",
    "devices",
    "stages",
    "micro_batch",
    "micro_batches",
    "tied",
    "objective",
    "unit",
    "value",
    "bound",
    "gap",
    "status",
    "solver",
    "kind",
]


def printed(plan_set: PlanSet, width: int) -> str:
    """What a terminal of some width shows."""
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(rich_table(plan_set, width))
    return screen.getvalue()


def test_the_frame_has_a_row_per_plan_with_the_plans_own_figures(plans: PlanSet) -> None:
    frame = plan_frame(plans)
    assert list(frame.columns) == COLUMNS
    everything = [*plans.plans, *plans.baselines]
    assert list(frame["plan"]) == [each.label for each in everything]
    assert list(frame["kind"]) == ["plan"] * len(plans.plans) + ["baseline"] * len(plans.baselines)
    for (_, row), each in zip(frame.iterrows(), everything, strict=True):
        assert each.prediction is not None
        assert row["makespan_s"] == each.prediction.makespan_s
        assert row["energy_participating_j"] == each.prediction.energy_j("participating")
        assert row["energy_all_on_j"] == each.prediction.energy_j("all-on")
        assert row["devices"] == len(each.devices)
        if each.certificate is not None:
            assert (row["value"], row["bound"], row["gap"]) == (
                each.certificate.value,
                each.certificate.bound,
                each.certificate.gap,
            )


def test_the_columns_have_one_type_whatever_is_missing(plans: PlanSet, bare: PlanSet) -> None:
    empty = PlanSet(plans.workload, plans.cluster, plans.qoe, (), (), 0.0)
    for plan_set in (plans, bare, empty):
        kinds = plan_frame(plan_set).dtypes.astype(str).to_dict()
        assert {kinds[name] for name in ("devices", "stages", "micro_batch", "micro_batches")} == {"int64"}
        assert {kinds[name] for name in COLUMNS if name.endswith(("_s", "_j"))} == {"float64"}
        assert {kinds[name] for name in ("value", "bound", "gap")} == {"float64"}
        assert {kinds[name] for name in ("plan", "tied", "objective", "unit", "status", "solver", "kind")} == {"str"}
    assert plan_frame(bare)["makespan_s"].isna().all()
    assert plan_frame(plans)["bound"].isna().sum() == len(plans.baselines)


def test_text_says_what_was_asked_and_every_plan(plans: PlanSet) -> None:
    text = plan_text(plans)
    assert text == repr(plans)
    assert "bert-base, training, batch 4, 128 tokens, fp32; smart-home: 5 devices on wifi" in text
    assert "least energy, latency at most 4 s; energy counting the plan's devices" in text
    assert "energy (participating)" in text
    for each in (*plans.plans, *plans.baselines):
        row = next(line for line in text.splitlines() if line.startswith(each.label))
        assert format_seconds(words.makespan_s(each)) in row
        assert format_joules(words.energy_of("participating")(each)) in row
    assert "HiGHS" in text


def test_seconds_of_a_link_as_good_as_cut_stay_short() -> None:
    assert format_seconds(1.9365888e295) == "1.94e+295 s"
    assert format_seconds(123_456_789) == "123,456,789 s"


@pytest.mark.parametrize("which", ["plans", "nasty", "bare"])
def test_text_fits_110_columns_and_is_printable(which: str, request: pytest.FixtureRequest) -> None:
    text = plan_text(request.getfixturevalue(which))
    lines = text.split("\n")
    assert max(map(len, lines)) <= 110
    assert all(line.isprintable() for line in lines)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("which", ["plans", "nasty", "bare"])
def test_the_terminal_table_fits_100_columns_and_wraps_only_devices(which: str, request: pytest.FixtureRequest) -> None:
    plan_set = request.getfixturevalue(which)
    screen = printed(plan_set, 100)
    lines = screen.split("\n")
    assert max(map(len, lines)) <= 100
    assert re.search(r"Plan +Latency +Energy +Devices +Bound +Gap +Status", screen)
    every = (*plan_set.plans, *plan_set.baselines)
    rows = [line for line in lines if re.search(r"\d k?J ", line)]
    # Names of devices may take further lines, figures may not.
    assert len(rows) == len([plan for plan in every if plan.prediction is not None])
    for device in {device for plan in every for device in plan.devices if device.isalnum()}:
        assert device in screen
    if which != "nasty":
        for each in (*plan_set.plans, *plan_set.baselines):
            assert (each.label or "plan") in screen


def test_the_terminal_table_aligns_numbers_to_the_right(plans: PlanSet) -> None:
    lines = [line for line in printed(plans, 100).splitlines() if " J " in line or "kJ " in line]
    ends = {re.search(r"k?J ", line).end() for line in lines}  # type: ignore[union-attr]
    assert len(lines) == len(plans.plans) + len(plans.baselines)
    assert len(ends) == 1


@pytest.mark.parametrize("width", [60, 80, 99])
def test_a_narrow_terminal_has_the_number_of_devices_and_every_figure(plans: PlanSet, width: int) -> None:
    lines = printed(plans, width).splitlines()
    assert max(map(len, lines)) <= width
    for plan in (*plans.plans, *plans.baselines):
        figures = f"{words.seconds_words(words.makespan_s(plan))}.*{len(plan.devices)} "
        assert any(re.search(figures, line) for line in lines), plan.label


def test_markup_in_a_label_is_text(plans: PlanSet) -> None:
    label = "[bold]fast[/bold]"
    changed = PlanSet(plans.workload, plans.cluster, plans.qoe, (plans.plans[0].replace(label=label),), (), 0.0)
    assert label in printed(changed, 100)


# ---------------------------------------------------------------------------------------------- comparisons


def rated(label: str, makespan_s: float, participating_j: float, all_on_j: float) -> Plan:
    """A plan with the figures given."""
    plan = pipeline((0, 2, {"phone": 4})).replace(label=label)
    return plan.replace(
        prediction={
            "makespan_s": makespan_s,
            "period_s": makespan_s,
            "samples_per_s": 4 / makespan_s,
            "energy_participating_j": participating_j,
            "energy_all_on_j": all_on_j,
            "network_bytes": 0,
            "airtime_s": 0,
            "devices": (),
            "idle": (),
        }
    )


def compared(plans: PlanSet, ours: list[Plan], baselines: list[Plan], accounting: str = "participating") -> list[str]:
    """The comparison of plans with the figures given."""
    qoe = QoE(energy_accounting=accounting)
    return words.comparison_lines(PlanSet(plans.workload, plans.cluster, qoe, tuple(ours), tuple(baselines), 1.0))


def test_gains_are_over_the_strongest_baseline_of_each_figure(plans: PlanSet) -> None:
    ours = [rated("fast", 10, 100, 300), rated("thrifty", 20, 50, 120)]
    baselines = [rated("single", 30, 80, 400), rated("split", 25, 200, 160)]
    speed, energy, all_on = compared(plans, ours, baselines)
    assert speed == "'fast' is 2.5 times as fast as 'split', the fastest baseline (10 s against 25 s)."
    assert energy == (
        "'thrifty' takes 38 % less energy than 'single', the thriftiest baseline, "
        "counting the plan's devices (50 J against 80 J)."
    )
    assert all_on == (
        "'thrifty' takes 25 % less energy than 'split', the thriftiest baseline, "
        "counting every device of the cluster (120 J against 160 J)."
    )
    assert compared(plans, ours, baselines, "all-on")[1:] == [all_on, energy]


def test_a_baseline_that_misses_a_limit_is_told_from_one_that_keeps_it(plans: PlanSet) -> None:
    ours, baselines = [rated("fast", 10, 100, 300)], [rated("single", 30, 80, 400), rated("split", 15, 200, 160)]
    asked = QoE(latency_s=20, objective="energy")
    speed, energy, _ = words.comparison_lines(
        PlanSet(plans.workload, plans.cluster, asked, tuple(ours), tuple(baselines), 1.0)
    )
    assert "'split', the fastest baseline (10 s" in speed
    assert "'single', the thriftiest baseline, which misses a limit, counting" in energy


def test_a_loss_is_called_a_loss(plans: PlanSet) -> None:
    speed, energy, all_on = compared(plans, [rated("ours", 30, 90, 100)], [rated("single", 20, 60, 100)])
    assert "takes 1.5 times as long as 'single'" in speed
    assert "takes 50 % more energy than 'single'" in energy
    assert "takes about as much energy as 'single'" in all_on
    speed, *_ = compared(plans, [rated("ours", 20, 1, 1)], [rated("single", 20.5, 1, 1)])
    assert "is about as fast as 'single'" in speed


def test_nothing_to_compare_with(plans: PlanSet, bare: PlanSet) -> None:
    assert words.comparison_lines(bare) == []
    assert plan_sentences(bare) == ["Found in 500 ms.", "All figures are predicted."]
    for line in compared(plans, [rated("ours", 1, 0, 0)], [rated("single", 1, 0, 0)]):
        assert "about as" in line


def test_a_baseline_that_misses_a_limit_says_so(plans: PlanSet) -> None:
    slow = rated("slow", 10, 5, 5)
    assert words.status_words(slow, QoE(latency_s=9)) == "misses latency"
    assert words.status_words(slow, QoE(latency_s=9, energy_j=4)) == "misses both limits"
    assert words.status_words(slow, QoE(latency_s=11)) == words.NOTHING
    assert words.status_words(plans.best, plans.qoe) == plans.best.certificate.status  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------- who runs what


def test_a_plan_in_words(plans: PlanSet) -> None:
    names = [layer.name for layer in plans.workload.layers]
    assert names[0] == "embedding"
    plan = pipeline((1, 5, {"phone": 2}), (5, len(names), {"laptop": 1, "hub": 1}), micro_batches=2, tied="hosted")
    assert describe_plan(plan.replace(label="mine"), plans.workload).splitlines() == [
        "mine: 2 stages, 2 micro-batches of 2 samples",
        "  first:  embedding on laptop and hub, next to the last layer, which shares its parameters",
        "  stage 0: block.0-3 on phone (all 2 samples)",
        "  stage 1: block.4-11, head on laptop (1 of 2 samples) and hub (1 of 2 samples)",
    ]
    single = describe_plan(pipeline((0, 3, {"phone": 1})), workload(3, batch=1))
    assert single == "plan: 1 stage, 1 micro-batch of 1 sample\n  stage 0: l0-2 on phone"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["stem", "block.0", "block.1", "head"], "stem, block.0-1, head"),
        (["block.3"], "block.3"),
        (["a1", "a3", "b4"], "a1, a3, b4"),
        (["layer 0", "layer 1", "layer 3"], "layers 0-1, layer 3"),
        (["s1.b0", "s1.b1", "s2.b0"], "s1.b0-1, s2.b0"),
        (["a", "b", "c", "d", "e"], "a to e (5 layers)"),
    ],
)
def test_layers_in_words(names: list[str], expected: str) -> None:
    assert words.layer_words(names) == expected


def test_counts_and_marks() -> None:
    assert [counted(1, "micro-batch"), counted(2, "micro-batch")] == ["1 micro-batch", "2 micro-batches"]
    marks = [words.baseline_mark(index) for index in range(60)]
    assert marks[:2] == ["B1", "B2"]
    assert len(set(marks)) == 60
    assert words.seconds_words(math.nan) == words.NOTHING


def test_limits_prices_and_coverage_in_words(plans: PlanSet) -> None:
    qoe = QoE(
        objective="price",
        joules_per_s=5,
        latency_s=8,
        latency_price="40 J/s",
        samples_per_s=2,
        battery_j={"phone": 300},
        headroom_fraction=0.1,
        headroom_price="3 J/GB",
    )
    assert words.qoe_words(qoe) == (
        "Asked for: lowest price of energy and latency at 5 J/s, latency at most 8 s (soft, 40 J/s beyond), throughput "
        "at least 2 samples/s, battery of phone at most 300 J and 10 % of usable memory free on every device (soft, "
        "3 J/GB beyond); energy counting the plan's devices"
    )
    late = qoe_value(rated("slow", 10, 5, 5).prediction, qoe).broken[0]  # type: ignore[arg-type]
    assert words.limit_words(late) == "latency at most 8 s: 10 s, not kept, costs 80"
    assert words.coverage_words(Coverage(0.074, 5)) == (
        "Whatever plan there is within the limits, one of these is at most 7.4 % slower and at most 7.4 % hungrier: "
        "proven, with at most 5 plans."
    )
    assert "at most 0 % slower" in words.coverage_words(Coverage(2.2e-16, 5))
    assert "at most 123 % slower" in words.coverage_words(Coverage(1.23, 5))
    assert "not proven" in words.coverage_words(Coverage(None, 5))
    assert plans.coverage is not None
    assert words.coverage_words(plans.coverage) in words.solved_lines(plans)


@pytest.mark.parametrize(
    ("line", "width", "lines"),
    [
        ("short", 20, ["short"]),
        ("a sentence that is long", 14, ["a sentence", "  that is long"]),
        ("  name   what it is, at length", 24, ["  name   what it is, at", "         length"]),
        ("it takes 12.5 s", 14, ["it takes", "  12.5 s"]),
        ("a path /very/long/one.json", 12, ["a path", "  /very/long/one.json"]),
        ("a\tb", 20, ["a b"]),
    ],
)
def test_lines_are_broken_below_their_last_column(line: str, width: int, lines: list[str]) -> None:
    assert wrapped(line, width).splitlines() == lines
