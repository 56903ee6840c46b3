"""Streams that share a cluster: their common round, files of them, and files of how they share."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from builders import cluster, layer, workload

import dora_nb as dora
from dora_nb.catalog import data_dir, load_streams
from dora_nb.domain.stream import Stream, common_round
from dora_nb.errors import DocumentError, InputError


def stream(name: str, rate: float, count: int = 1) -> Stream:
    work = workload([layer(f"{name}0", 1e8)], mode="stream", batch=1, requests_per_s=rate)
    return Stream(name=name, workload=work, count=count)


@pytest.mark.parametrize(
    ("rates", "round_s", "requests"),
    [
        ((10,), Fraction(1, 10), (1,)),
        ((10, 15), Fraction(1, 5), (2, 3)),
        ((30, 29.97), Fraction(100, 3), (1000, 999)),
        ((1 / 3, 0.5), Fraction(6), (2, 3)),
        ((7.5, 2.5, 10), Fraction(2, 5), (3, 1, 4)),
    ],
)
def test_the_round_is_the_least_common_multiple_of_the_periods(
    rates: tuple[float, ...], round_s: Fraction, requests: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora_nb.domain.stream.MOST_REQUESTS", 10_000)
    assert common_round([stream("x", rate) for rate in rates]) == (round_s, requests)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((10, 2**0.5), r"streams\[1\].workload.requests_per_s: .* a fraction with a denominator of at most"),
        ((1e-9,), "a fraction with a denominator of at most"),
        ((10, 9.99), "rates that meet sooner: these repeat together only every 100 s, after 1,999 requests"),
    ],
)
def test_streams_that_hardly_ever_meet_are_refused(rates: tuple[float, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        common_round([stream("x", rate) for rate in rates])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"workload": workload(1, mode="inference")}, "workload.mode"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"count": 2, "phases_s": (0.0,)}, "phases_s"),
        ({"count": 2, "phases_s": (0.0, 0.5)}, "phases_s"),
    ],
)
def test_what_is_no_stream_is_refused(fields: dict[str, Any], field: str) -> None:
    good = {"name": "x", "workload": stream("x", 2.0).workload}
    assert Stream(**good, count=2, phases_s=(0.0, 0.49)).period_s == 0.5
    with pytest.raises(InputError) as caught:
        Stream(**(good | fields))
    assert caught.value.field == field


def test_the_cameras_of_the_catalogue() -> None:
    cameras = load_streams("traffic-cameras")
    assert sum(each.count for each in cameras) == 8
    assert {each.workload.name for each in cameras} == {"mobilenet-v2", "vit-b-16", "resnet-50"}
    assert cameras[0].deadline_s == pytest.approx(0.15)
    assert cameras[0].workload.source == "camera-1"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "no-such"}, InputError, r"streams\[0\].model: got 'no-such'"),
        ({"model": None}, InputError, r"streams\[0\].model"),
        ({"count": 3}, InputError, r"streams\[0\].count"),
        ({"rate": 3}, InputError, r"streams\[0\].rate"),
        ({"precision": "fp8"}, InputError, r"streams\[0\].precision"),
        ({"requests_per_s": {"value": 3, "unit": "J", "status": "assumed", "source": "x"}}, InputError, "frequency"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    document = json.loads((data_dir() / "streams" / "traffic-cameras.json").read_text())
    document["streams"][0] |= change
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document))
    with pytest.raises(error, match=message):
        load_streams(path)


def test_a_file_without_streams_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"name": "none", "streams": []}')
    with pytest.raises(InputError, match="one stream or more"):
        load_streams(path)


def test_a_saved_sharing_reads_back_equal_and_is_played(tmp_path: Path) -> None:
    from dora_nb.simulation.shared import play

    streams, place = [stream("x", 2.0, 2), stream("y", 1.0)], cluster(2, 1e7)
    found = dora.share(streams, place)
    again = dora.load_sharing(dora.save_sharing(tmp_path / "sharing.json", found))
    assert again == found
    assert play(again, streams, place) == play(found, streams, place)
    with pytest.raises(InputError, match="the cameras of the sharing"):
        play(again, streams[:1], place)
    with pytest.raises(InputError, match="rounds"):
        play(again, streams, place, rounds=0)


def test_a_wrong_sharing_file_is_refused(tmp_path: Path) -> None:
    path = dora.save_sharing(tmp_path / "sharing.json", dora.share([stream("x", 2.0)], cluster(1, 1e7)))
    document = json.loads(path.read_text())
    for change, message in (
        ({"format": "dora-nb/plan"}, "is not a sharing"),
        ({"version": 2}, "version 2"),
        ({"round_s": 0}, "round_s"),
        ({"more": 1}, "more"),
    ):
        path.write_text(json.dumps(document | change))
        with pytest.raises(DocumentError, match=message):
            dora.load_sharing(path)
