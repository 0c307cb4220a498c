"""Has a mix of categories changed? Seldom wrong over sixty nights, and right where many change a little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.monitoring.drift_evidence import LEAST_ITEMS, distribution_moved
from tasks.monitoring.drift_mix import MixVerdict, mix_moved


def moved(sample: NDArray[np.int64], nights: NDArray[np.int64], tolerance: float = 0.05) -> MixVerdict:
    return mix_moved(sample, nights, np.eye(len(sample), dtype=bool), tolerance, 0.05)


def test_sixty_nights_of_the_same_mix_alarm_in_at_most_one_of_twenty_draws() -> None:
    """The sample is drawn anew each time; rare categories beside frequent ones, and no tolerance helps."""
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.02, 0.02, 0.01])
    alarmed = []
    for _ in range(60):
        sample, nights = random.multinomial(300, shares), random.multinomial(100, shares, 60)
        alarmed.append(any(moved(sample, nights[:night], 0.0).alarm for night in range(4, 61, 8)))
    assert np.mean(alarmed) <= 0.05


def test_opposite_shifts_of_neighbours_do_not_cancel() -> None:
    """Of twenty categories every second one doubles, the others nearly vanish: by their order almost nothing moved."""
    random = np.random.default_rng(1)
    before, after = np.full(20, 0.05), np.tile([0.095, 0.005], 10)
    sample = random.multinomial(500, before)
    nights = np.concatenate([random.multinomial(300, before, 10), random.multinomial(300, after, 6)])
    found = moved(sample, nights)
    assert found.alarm
    assert 8 <= found.since <= 11
    assert found.group.tolist() == [True, False] * 10
    assert found.share == pytest.approx(0.95, abs=0.05)
    assert found.before == pytest.approx(0.5, abs=0.08)
    assert not distribution_moved(sample, nights, 0.05, 0.05).alarm


def test_a_rare_category_that_grows_is_found_and_dated() -> None:
    """From 2 to 20 %: its own share is known far better than half of all."""
    random = np.random.default_rng(2)
    before, after = [0.58, 0.4, 0.02], [0.48, 0.32, 0.2]
    nights = np.concatenate([random.multinomial(100, before, 20), random.multinomial(100, after, 10)])
    found = moved(random.multinomial(400, before), nights)
    assert found.alarm
    assert 17 <= found.since <= 22
    assert found.group.tolist() == [False, False, True]
    assert found.share > found.limit > found.before


@given(st.permutations(range(5)), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_order_of_categories_makes_no_difference(order: list[int], seed: int) -> None:
    """Neither to whether it alarms nor to since when."""
    random = np.random.default_rng(seed)
    sample = random.multinomial(200, [0.2] * 5)
    nights = random.multinomial(80, random.dirichlet([2.0] * 5), 6)
    one, other = moved(sample, nights), moved(sample[order], nights[:, order])
    assert (one.alarm, one.since, one.items) == (other.alarm, other.since, other.items)
    assert one.share == pytest.approx(other.share)


@pytest.mark.parametrize(("sample", "items"), [(LEAST_ITEMS - 1, 1000), (1000, LEAST_ITEMS - 1)])
def test_few_items_never_alarm(sample: int, items: int) -> None:
    """However different they look, on either side."""
    assert not moved(np.array([sample, 0]), np.array([[0, items]])).alarm


def test_thousands_of_categories_are_one_look() -> None:
    """All sets of them are too many to bound; each alone still is."""
    sample, night = np.full(3000, 1), np.full((3, 3000), 1)
    night[1:, 0] = 3000
    found = moved(sample, night)
    assert found.alarm
    assert int(found.group.sum()) == 1
