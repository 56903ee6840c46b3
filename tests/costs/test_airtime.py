"""The airtime rule against measurements of others: some rows fit it, the others test it, and misses are told.

Rates are fitted on two rows; another row is met if every station is within 10 % and Jain's index within 0.05. Four of
the seven rows that test the rule miss that, and it must not be thought to cover them.
"""

from __future__ import annotations

import json

import pytest

from dora_nb.catalog import data_dir
from dora_nb.costs.airtime import ContentionError, compare, contention_rows, equal_airtime, fit_rates, jain

FITTED = {"1 rpi alone, downlink BE", "2 rpi + 1 nb, uplink, HE80"}
MOST_RELATIVE, MOST_JAIN = 0.10, 0.05
#: Why each row that is missed is missed.
MISSED = {
    "2 rpi + 1 nb, uplink, VHT80 (802.11ac)": "the laptop is slower with 802.11ac, and was not measured alone there",
    "downlink priority VI vs BE on 2 rpi": "the rule knows no priorities",
    "5 rpi": "five equal stations were less than fair to each other",
    "5 rpi + 1 nb": "six stations likewise",
}


def errors() -> list[ContentionError]:
    rows = contention_rows(json.loads((data_dir() / "measurements" / "wifi-contention.json").read_text()))
    rates = fit_rates(row for row in rows if row.case in FITTED)
    return [compare(row, rates) for row in rows]


def is_met(error: ContentionError) -> bool:
    near = all(abs(each) <= MOST_RELATIVE for each in error.relative)
    return near and abs(error.jain - error.row.jain) <= MOST_JAIN


def test_the_rule_meets_the_rows_it_should_and_misses_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = errors()
    with capsys.disabled():
        print("\nEqual airtime against measured goodput:")
        for error in found:
            role = "fitted" if error.row.case in FITTED else "met" if is_met(error) else "MISSED"
            print(f"  {role:6} {error} {MISSED.get(error.row.case, '')}".rstrip())
    tested = [error for error in found if error.row.case not in FITTED]
    assert {error.row.case for error in tested if not is_met(error)} == set(MISSED)
    assert len(tested) == 7
    assert all(is_met(error) for error in found if error.row.case in FITTED)


def test_the_rule_overstates_how_fair_many_stations_are() -> None:
    by_case = {error.row.case: error for error in errors()}
    for case in ("5 rpi", "5 rpi + 1 nb"):
        assert by_case[case].jain > by_case[case].row.jain + MOST_JAIN
    assert by_case["5 rpi + 1 nb"].jain == pytest.approx(0.61, abs=0.01)
    assert by_case["5 rpi + 1 nb"].row.jain == 0.521


def test_equal_packets_would_be_far_off() -> None:
    """The other rule at hand gives every station the same goodput, the fast laptop too."""
    found = next(error for error in errors() if error.row.case == "2 rpi + 1 nb, uplink, repeat")
    rates = [3 * each for each in found.goodput_bytes_per_s]
    same = 1 / sum(1 / rate for rate in rates)
    measured = found.row.goodput_bytes_per_s
    assert same / measured[2] - 1 < -0.5
    assert max(abs(each) for each in found.relative) < 0.1


def test_equal_airtime_and_jain_by_hand() -> None:
    assert equal_airtime([12.0, 6.0, 3.0]) == (4, 2, 1)
    assert jain([5.0, 5.0]) == pytest.approx(1)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([4.0, 2.0, 1.0]) == pytest.approx(49 / 63)
