"""Tests of whether something has moved: seldom wrong over sixty nights, and right where it has."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.monitoring.drift_evidence import (
    LEAST_ITEMS,
    distribution_moved,
    margin_at_all_times,
    rate_above,
    start_shares,
)
from tasks.monitoring.sequential import evidence_above, log_evidence

NIGHTS, DRAWS = 60, 200
COUNTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)


def test_sixty_nights_of_a_rate_at_its_limit_alarm_in_at_most_one_of_twenty_draws() -> None:
    """Looked at each night, over all days on which a change might have begun."""
    draws = np.random.default_rng(0).binomial(20, 0.05, (DRAWS, NIGHTS))
    trials = np.full(NIGHTS, 20)
    alarmed = [
        any(rate_above(draw[:night], trials[:night], 0.05, 0.05).alarm for night in range(2, NIGHTS + 1))
        for draw in draws
    ]
    assert np.mean(alarmed) <= 0.05


def test_sixty_nights_of_the_same_distribution_alarm_in_at_most_one_of_twenty_draws() -> None:
    """The sample is drawn anew each time, too; no tolerance helps."""
    random = np.random.default_rng(1)
    shares = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    alarmed = []
    for _ in range(DRAWS):
        sample, nights = random.multinomial(300, shares), random.multinomial(100, shares, NIGHTS)
        looks = (distribution_moved(sample, nights[:night], 0.0, 0.05) for night in range(1, NIGHTS + 1))
        alarmed.append(any(look.alarm for look in looks))
    assert np.mean(alarmed) <= 0.05


def test_a_rate_that_doubles_after_fifty_good_nights_is_found_and_dated() -> None:
    """The good nights before do not drown what came after."""
    random = np.random.default_rng(2)
    for _ in range(20):
        hits = np.concatenate([random.binomial(20, 0.02, 50), random.binomial(20, 0.15, 20)])
        found = rate_above(hits, np.full(70, 20), 0.05, 0.01)
        assert found.alarm
        assert 40 <= found.since <= 60
        assert found.value > 0.05


def test_a_distribution_that_shifts_after_thirty_nights_is_found_and_dated() -> None:
    """A fifth of the items moves from the last bin to the first."""
    random, before, after = np.random.default_rng(3), [0.3, 0.4, 0.3], [0.55, 0.4, 0.05]
    nights = np.concatenate([random.multinomial(200, before, 30), random.multinomial(200, after, 10)])
    found = distribution_moved(random.multinomial(400, before), nights, 0.05, 0.01)
    assert found.alarm
    assert 25 <= found.since <= 32
    assert found.value == pytest.approx(0.25, abs=0.07)
    assert found.value > found.limit


@pytest.mark.parametrize(("sample", "items"), [(LEAST_ITEMS - 1, 1000), (1000, LEAST_ITEMS - 1)])
def test_few_items_never_alarm(sample: int, items: int) -> None:
    """However different they look, on either side."""
    assert not distribution_moved(np.array([sample, 0]), np.array([[0, items]]), 0.0, 0.5).alarm
    assert not rate_above(np.array([LEAST_ITEMS - 1]), np.array([LEAST_ITEMS - 1]), 0.01, 0.5).alarm


@given(COUNTS, st.floats(0.01, 0.99))
def test_evidence_by_counts_is_evidence_by_order(days: list[tuple[int, int]], limit: float) -> None:
    """Only how many were wrong matters, so each beginning's evidence is that of the sequence from there on."""
    wrong = np.concatenate([np.repeat([True, False], both) for both in days])
    if not len(wrong):
        return
    one_by_one = evidence_above(wrong, limit)[-1]
    at_once = log_evidence(np.array([wrong.sum()]), np.array([(~wrong).sum()]), limit)[0]
    assert at_once == pytest.approx(one_by_one)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(1, 20))
def test_what_is_the_same_in_both_never_moves(counts: list[int], times: int) -> None:
    """Whatever the shape, on however many days."""
    reference = np.array(counts)
    assert not distribution_moved(reference, np.tile(reference, (times, 1)), 0.0, 0.5).alarm


def test_the_allowance_is_spent_once_over_all_days() -> None:
    """All days to come, a late start included, have no more than all of it."""
    assert start_shares(10_000).sum() < 1
    assert start_shares(3, before=2) == pytest.approx(start_shares(5)[2:])


def test_the_margin_is_the_published_one_and_narrows() -> None:
    """0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n) at n = 1000 by hand, and a tenth of it far later."""
    margins = margin_at_all_times(np.array([1000, 130_000]), 0.05)
    by_hand = 0.85 * ((log(log(2.718281828459045 * 1000)) + 0.8 * log(1612 / 0.05)) / 1000) ** 0.5
    assert margins[0] == pytest.approx(by_hand)
    assert margins[1] < margins[0] / 10
