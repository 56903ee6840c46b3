"""Runs, profiles and measured networks in words."""

from __future__ import annotations

import pytest
from builders import workload
from runs import made_up_run

from dora_nb.catalog import load_workload
from dora_nb.domain.cluster import ContentionDomain
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.run_record import Copying, Differences, EnergyFigure, Incident
from dora_nb.domain.run_times import StreamTimes, TokenTimes
from dora_nb.render.comparison import error_words
from dora_nb.render.profiles import profile_facts, profile_lines
from dora_nb.render.runs import progress_html, run_html, run_text
from dora_nb.render.words import domain_lines

RATES = {"a": 1e6, "b": 2.5e6}


def figure(joules: float, status: str, meter: str, scope: str) -> EnergyFigure:
    return EnergyFigure(joules=joules, status=status, meter=meter, scope=scope, seconds=2.0)


def test_every_figure_of_energy_says_whether_it_was_measured() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    assert "energy" not in run_text(record)
    energy = (
        figure(12.0, "measured", "RAPL package-0", "host, processor package"),
        figure(3.0, "estimated", "model", "device a"),
        figure(4.5, "estimated", "model", "network"),
    )
    text = run_text(record.replace(energy=energy))
    assert "measured 12 J in 2 s (RAPL package-0, host, processor package)" in text
    assert "estimated 7.5 J in 2 s (a, network; model)" in text
    assert "estimated 7.5 J" in run_html(record.replace(energy=energy))


def test_what_happened_between_steps_is_told() -> None:
    switch = Incident(kind="switch", completed=1, at_s=3.0, seconds=0.12, layers_moved=1, text="to <another> plan")
    fault = Incident(kind="fault", completed=0, at_s=1.0, text="device b fell silent")
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}).replace(incidents=(fault, switch))
    assert "fault            before the first step: device b fell silent\n" in run_text(record)
    assert "switch           after step 1: to <another> plan (took 120 ms, 1 layer moved)\n" in run_text(record)
    assert "to &lt;another&gt; plan" in run_html(record)
    # Without training there are no steps to count.
    passive = record.replace(workload=record.workload.replace(mode="inference"), incidents=(switch,))
    assert "3 s into the run: to <another> plan" in run_text(passive)


def test_copies_for_neighbours_are_told_as_predicted_and_measured() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    assert "copies" not in run_text(record)
    copying = Copying(size_bytes=3.2e6, predicted_s=0.030, measured_s=0.033)
    shown = "3.2 MB behind a step: predicted 30 ms, measured 33 ms (+10.0 %)"
    assert shown in run_text(record.replace(copying=copying))
    assert shown in run_html(record.replace(copying=copying))


def test_the_pace_of_tokens_is_told_as_predicted_and_measured() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}, steps=0)
    text = run_text(
        record.replace(
            workload=load_workload("qwen3-0.6b", mode="generate", batch=8, new_tokens=4),
            differences=Differences(outputs=0.0, tokens=2),
            predicted_tokens=TokenTimes(first_token_s=0.2, token_s=0.05),
            measured_tokens=TokenTimes(first_token_s=0.3, token_s=0.04),
        )
    )
    assert "one batch of 8 x 4 new tokens" in text
    assert "first token      predicted 200 ms, measured 300 ms (+50.0 %)\n" in text
    assert "further token    predicted 50 ms, measured 40 ms (-20.0 %)\n" in text
    assert "other tokens     2 of 32\n" in text


def test_requests_that_were_answered_more_slowly_than_they_came_did_not_keep_up() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}, steps=0)
    text = run_text(
        record.replace(
            workload=record.workload.replace(mode="stream", requests_per_s=10.0),
            predicted_stream=StreamTimes(arrival_s=0.1, latencies_s=(0.2, 0.2, 0.2)),
            measured_stream=StreamTimes(arrival_s=0.1, latencies_s=(0.2, 0.3, 0.4)),
        )
    )
    assert "a stream of 3 requests" in text
    assert "median latency   predicted 200 ms, measured 300 ms (+50.0 %)\n" in text
    assert "longest latency  predicted 200 ms, measured 400 ms (+100.0 %)\n" in text
    assert "10 requests/s came, 5 /s were answered: predicted it kept up, measured it did not keep up\n" in text


def test_a_run_under_way_is_told_in_html() -> None:
    shown = progress_html("failed", ["running", "lost <b>"], "worker 1 failed\nsee its log")
    assert "Run failed" in shown
    assert "running<br>lost &lt;b&gt;</p>" in shown
    assert "<p>worker 1 failed<br>see its log</p>" in shown
    assert progress_html("running", ["starting"]).count("<p") == 2


@pytest.mark.parametrize(
    ("kind", "fields", "shown"),
    [
        ("shared", {"rates_bytes_per_s": RATES}, "20 Mbit/s"),
        ("cell", {"rates_bytes_per_s": RATES, "down_rates_bytes_per_s": {"a": 5e6, "b": 1e7}}, "up, 80 Mbit/s down"),
        ("links", {"links_bytes_per_s": {"a": {"b": 1e6}, "b": {"a": 2e6}}}, "16 Mbit/s to a"),
    ],
)
def test_a_network_in_lines(kind: str, fields: dict[str, object], shown: str) -> None:
    first, a, b = domain_lines(ContentionDomain(id="net", kind=kind, latency_s=2e-3, **fields))
    assert first.strip() == f"net: {kind}, 2 ms a message"
    assert a.split()[0] == "a"
    assert shown in b


def test_a_profile_in_lines_and_facts() -> None:
    layers = tuple(
        LayerProfile(forward_s={1: 1.0, 2: seconds}, backward_s={1: 2.0, 2: 3.0}, step_s=0.5, spread=spread)
        for seconds, spread in ((1.5, 0.0), (4.0, 0.07))
    )
    found = Profile(workload=workload(2, mode="training"), layers=layers, machine="a phone")
    text = "\n".join(profile_lines(found))
    for shown in (
        "2 layers",
        "a phone",
        "2 samples   forward 5.5 s, backward 6 s",
        "step        1 s",
        "l1; figures vary by at most 7 %",
    ):
        assert shown in text
    facts = profile_facts(found)
    assert facts["forward_s"] == {"1": 2.0, "2": 5.5}
    assert (facts["step_s"], facts["spread"]) == (1.0, 0.07)


@pytest.mark.parametrize(
    ("error", "said"),
    [(None, "-"), (0.0066, "+0.7 %"), (-0.458, "-45.8 %"), (5.001, "+500 %"), (84.981, "x 86"), (1e4, "x 10,001")],
)
def test_an_error_has_the_digits_that_one_reads(error: float | None, said: str) -> None:
    assert error_words(error) == said
