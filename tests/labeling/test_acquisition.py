"""The mix of uncertain, diverse and random items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.labeling import acquisition
from tasks.labeling.acquisition import (
    DIVERSE,
    RANDOM,
    UNCERTAIN,
    WHY,
    Sight,
    margins_of,
    mixed_order,
    uncertain_rows,
    usable_shares,
)
from tests.labeling.test_spread import groups_of

MIX = {UNCERTAIN: 0.4, DIVERSE: 0.3, RANDOM: 0.3}
NOTHING = np.zeros((0, 32), np.float32)


def sight_of(rows: int, margins: bool = True, seed: int = 0) -> Sight:
    X, _ = groups_of([max(1, rows // 10)] * 10, seed)
    X = X[:rows]
    m = np.random.default_rng(seed).random(len(X)).astype(np.float32) if margins else None
    return Sight(np.arange(len(X)), X, X[:3], m)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([(0.4, 0.3, 0.3), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.6, 0.3, 0.1)]),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_item_stands_in_the_order_once_and_every_beginning_has_the_mix(
    rows: int, wanted: int, shares: tuple[float, float, float], student: bool, seed: int
) -> None:
    """A run that stops in the middle has had the mix; what nothing is known about comes in at random."""
    sight, mix = sight_of(200, student), dict(zip(WHY, shares, strict=True))
    items = len(sight.rows) + rows
    order, why = mixed_order(items, wanted, mix, sight, seed)
    assert sorted(order.tolist()) == list(range(items))
    told, usable = np.array(why), usable_shares(mix, sight)
    planned = min(wanted, items)
    if max(usable[UNCERTAIN], usable[DIVERSE]) * planned <= len(sight.rows) / 4 and usable[RANDOM] > 0:
        for kind, share in usable.items():
            had = (told[:planned] == kind).cumsum()
            assert (abs(had - share * np.arange(1, planned + 1)) <= 2).all(), kind
    assert not (told[len(sight.rows) + planned :] != RANDOM).any()


def test_the_random_ones_keep_the_order_they_came_in() -> None:
    order, why = mixed_order(500, 100, MIX, sight_of(200), 0)
    left = order[np.array(why) == RANDOM]
    assert (np.diff(left) > 0).all()


def test_without_a_student_its_share_goes_to_diverse_and_without_embeddings_to_random() -> None:
    def counts(sight: Sight | None) -> dict[str, int]:
        _, why = mixed_order(400, 100, MIX, sight, 0)
        return {kind: why[:100].count(kind) for kind in WHY}

    assert counts(sight_of(200)) == {UNCERTAIN: 40, DIVERSE: 30, RANDOM: 30}
    assert counts(sight_of(200, margins=False)) == {UNCERTAIN: 0, DIVERSE: 70, RANDOM: 30}
    assert counts(None) == {UNCERTAIN: 0, DIVERSE: 0, RANDOM: 100}


def test_the_places_of_the_sight_are_used() -> None:
    """Only every third item has a vector: nothing else can be chosen for what it looks like."""
    sight = sight_of(100)
    rows = np.arange(0, 300, 3)
    order, why = mixed_order(300, 60, MIX, Sight(rows, sight.vectors, sight.labelled, sight.margins), 0)
    picked = order[np.array(why) != RANDOM]
    assert len(picked) == 42
    assert set(picked.tolist()) <= set(rows.tolist())


def test_one_seed_one_order() -> None:
    orders = [mixed_order(300, 100, MIX, sight_of(200), seed)[0].tolist() for seed in (5, 5, 6)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_of_the_uncertain_near_duplicates_one_is_asked() -> None:
    """Forty copies of the most uncertain item of all: the forty smallest margins are one thing."""
    X, group = groups_of([40, *[4] * 39])
    margins = np.where(group == 0, 0.0, 0.05 + 0.001 * group).astype(np.float32)
    found = uncertain_rows(X, margins, 40, np.random.default_rng(0))
    assert len(found) == len(set(found.tolist())) == 40
    assert (group[found] == 0).sum() <= 4
    assert len(set(group[found].tolist())) >= 25


def test_nothing_sure_is_taken_for_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken is among the four times as many with the smallest margins, the first ones first."""
    monkeypatch.setattr(acquisition, "AT_ONCE", 10)
    sight = sight_of(200)
    margins = sight.margins
    assert margins is not None
    found = uncertain_rows(sight.vectors, margins, 30, np.random.default_rng(0))
    assert len(set(found.tolist())) == 30
    ranks = np.argsort(np.argsort(margins))[found]
    assert ranks.max() < 4 * 30
    assert ranks[:10].max() < 4 * 10


def test_diverse_ones_stand_for_what_no_label_stands_for() -> None:
    """Five of ten groups are labelled, a sixth is uncertain: the diverse share goes to the four others."""
    X, group = groups_of([30] * 10)
    margins = np.where(group == 5, 0.1, 0.9).astype(np.float32)
    sight = Sight(np.arange(len(X)), X, X[group < 5], margins)
    order, why = mixed_order(len(X), 8, {UNCERTAIN: 0.5, DIVERSE: 0.5, RANDOM: 0.0}, sight, 0)
    told = np.array(why)[:8]
    assert set(group[order[:8][told == UNCERTAIN]].tolist()) == {5}
    assert sorted(group[order[:8][told == DIVERSE]].tolist()) == [6, 7, 8, 9]


def test_many_are_chosen_in_parts_that_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition, "AT_ONCE", 5)
    monkeypatch.setattr(acquisition, "CANDIDATES", 150)
    X, group = groups_of([20] * 20)
    sight = Sight(np.arange(len(X)), X, NOTHING, None)
    order, _ = mixed_order(len(X), 20, {UNCERTAIN: 0.0, DIVERSE: 1.0, RANDOM: 0.0}, sight, 0)
    assert len(set(group[order[:20]].tolist())) >= 18


def test_more_than_is_planned_is_filled_up_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition, "MOST_DIVERSE", 7)
    monkeypatch.setattr(acquisition, "MOST_UNCERTAIN", 9)
    _, why = mixed_order(200, 200, MIX, sight_of(200), 0)
    assert {kind: why.count(kind) for kind in WHY} == {UNCERTAIN: 9, DIVERSE: 7, RANDOM: 184}


def test_vectors_need_not_be_of_length_one() -> None:
    sight = sight_of(200)
    longer = Sight(sight.rows, sight.vectors * 8, sight.labelled * 0.5, sight.margins)
    assert mixed_order(200, 50, MIX, sight, 0)[0].tolist() == mixed_order(200, 50, MIX, longer, 0)[0].tolist()


def test_margins_are_first_minus_second() -> None:
    P = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    np.testing.assert_allclose(margins_of(P), [0.2, 0.7, 0.0], atol=1e-6)
    np.testing.assert_allclose(margins_of(np.ones((2, 1), np.float32)), 1.0)
