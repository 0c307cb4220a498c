"""The student's mistakes beside its teacher's: every item is counted once, under what it means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.beside_teacher import beside_teacher


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_every_item_is_counted_once(triples: list[tuple[int, int, int]]) -> None:
    true, student, teacher = np.array(triples).T
    found = beside_teacher("kind", true, student, teacher)
    assert found.items == len(true)
    assert found.both_right + found.gained == (student == true).sum()
    assert found.both_right + found.own == (teacher == true).sum()
    value, low, high = found.difference
    assert value == pytest.approx((student == true).mean() - (teacher == true).mean())
    assert low <= value <= high


def test_shared_mistakes_are_told_from_different_ones() -> None:
    """Of six items: both right, a gain, an own mistake, the same mistake twice, two different ones."""
    true = np.zeros(6, int)
    student, teacher = np.array([0, 0, 1, 2, 3, 1]), np.array([0, 1, 0, 2, 3, 2])
    found = beside_teacher("kind", true, student, teacher)
    assert (found.both_right, found.gained, found.own, found.same, found.different) == (1, 1, 1, 2, 1)
    assert found.difference[0] == 0
