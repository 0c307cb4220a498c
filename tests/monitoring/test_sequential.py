"""Tests and intervals that may be looked at every night."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.monitoring.sequential import confidence_sequence, evidence_above

DRAWS, NIGHTS = 400, 2000


def test_the_evidence_is_that_of_the_mixture_computed_by_hand() -> None:
    """Against "at most 5 %", three errors in ten: the mean likelihood ratio over rates from .05 to 1."""
    wrong = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    rates = np.linspace(0.05, 1, 200_001)
    ratios = (rates**3 * (1 - rates) ** 7) / (0.05**3 * 0.95**7)
    by_hand = np.log(np.trapezoid(ratios, rates) / 0.95)
    assert evidence_above(wrong, 0.05)[-1] == pytest.approx(by_hand, abs=1e-6)


def test_peeking_every_night_accuses_a_rate_at_the_limit_in_at_most_one_of_twenty_draws() -> None:
    """2,000 looks at a share that is exactly the limit: 5 % of the draws may ever alarm."""
    draw = np.random.default_rng(0).random((DRAWS, NIGHTS)) < 0.05
    alarms = np.mean([evidence_above(row, 0.05).max() >= np.log(20) for row in draw])
    assert alarms <= 0.05


def test_a_rate_of_twice_the_limit_is_found() -> None:
    """10 % errors against a limit of 5 %: found within 1,000 audited answers in nearly all draws."""
    draw = np.random.default_rng(1).random((100, 1000)) < 0.10
    assert np.mean([evidence_above(row, 0.05).max() >= np.log(20) for row in draw]) > 0.95


def test_the_interval_holds_at_all_times_at_once() -> None:
    """In at most 5 % of draws does it ever leave out the true share, looked at a hundred times."""
    draw = np.random.default_rng(2).random((200, 1000)) < 0.6
    left_out = 0
    for row in draw:
        seen = [confidence_sequence(row[:n]) for n in range(10, 1001, 10)]
        left_out += any(not low <= 0.6 <= high for low, high in seen)
    assert left_out / 200 <= 0.05


def test_the_interval_narrows_and_knows_nothing_of_nothing() -> None:
    """(0, 1) without trials; within 5 points of the share after 2,000."""
    assert confidence_sequence(np.zeros(0, bool)) == (0.0, 1.0)
    low, high = confidence_sequence(np.arange(2000) % 5 > 0)
    assert 0.75 < low < 0.8 < high < 0.85


def test_a_share_of_none_and_of_all_reaches_the_ends() -> None:
    """No hit in ten leaves 0 possible, ten of ten leave 1."""
    assert confidence_sequence(np.zeros(10, bool))[0] == 0.0
    assert confidence_sequence(np.ones(10, bool))[1] == 1.0
