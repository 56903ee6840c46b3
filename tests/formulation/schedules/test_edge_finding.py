"""Earliest starts on one medium: no sequence that fits refutes them, and they say more than pairs do."""

from __future__ import annotations

import itertools

import numpy as np
from builders import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.formulation.schedules.edge_finding import least_heads_s

TRANSFERS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 14), st.integers(0, 5)), min_size=1, max_size=6
)  # head, slack, held


def earliest_s(head_s: list[int], due_s: list[int], held_s: list[int]) -> list[float]:
    """The earliest start of each in any sequence that fits; infinity if none does."""
    least = [np.inf] * len(head_s)
    for order in itertools.permutations(range(len(head_s))):
        starts, now = {}, 0
        for index in order:
            starts[index] = max(now, head_s[index])
            now = starts[index] + held_s[index]
            if now > due_s[index]:
                break
        else:
            least = [min(least[index], starts[index]) for index in range(len(head_s))]
    return least


@settings(max_examples=examples(150), deadline=None)
@given(TRANSFERS)
def test_no_sequence_that_fits_starts_a_transfer_earlier(drawn: list[tuple[int, int, int]]) -> None:
    head_s = [head for head, _, _ in drawn]
    held_s = [held for _, _, held in drawn]
    due_s = [head + held + slack for head, slack, held in drawn]
    least = earliest_s(head_s, due_s, held_s)
    found = least_heads_s(*(np.array(each, dtype=float) for each in (head_s, due_s, held_s)))
    assert (found >= np.array(head_s)).all()
    assert (found <= np.array(least)).all()


def test_a_transfer_waits_for_a_set_that_leaves_no_room_for_it() -> None:
    """Each of the two others could go after the third, both could not."""
    head_s, due_s, held_s = np.array([0.0, 1.0, 1.0]), np.array([12.0, 6.0, 6.0]), np.array([3.0, 2.0, 2.0])
    for other in (1, 2):
        alone = np.array([0, other])
        assert (least_heads_s(head_s[alone], due_s[alone], held_s[alone]) == head_s[alone]).all()
    assert least_heads_s(head_s, due_s, held_s).tolist() == [5.0, 1.0, 1.0]


def test_a_set_that_cannot_fit() -> None:
    found = least_heads_s(np.array([0.0, 1.0]), np.array([3.0, 3.0]), np.array([2.0, 1.5]))
    assert np.isinf(found).all()
