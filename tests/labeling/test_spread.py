"""Rows that stand for groups of similar rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.labeling import spread
from tasks.labeling.spread import greatest_similarity, representatives, unit


def groups_of(sizes: list[int], seed: int = 0, dimension: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Tight groups of unit vectors far from each other, shuffled, and the group of each row."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = unit(rng.standard_normal((len(sizes), dimension)).astype(np.float32))
    noise = 0.01 * rng.standard_normal((len(group), dimension)).astype(np.float32)
    return unit(centres[group] + noise), group


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 3), st.integers(0, 5))
def test_as_many_distinct_rows_as_there_can_be(rows: int, k: int, kinds: int, seed: int) -> None:
    """Also where all rows are copies of one another, or of what is known already."""
    X = unit(np.eye(4, dtype=np.float32)[np.arange(rows) % (kinds + 1)])
    known = greatest_similarity(X, X[:1])
    for said in (None, known):
        found = representatives(X, k, np.random.default_rng(seed), known=said)
        assert len(set(found.tolist())) == len(found) == min(k, rows)
        assert set(found.tolist()) <= set(range(rows))


def test_nearly_every_group_has_one_however_small() -> None:
    """Random choice of as many misses most of the small groups."""
    X, group = groups_of([400, 200, *[4] * 18])
    found = representatives(X, 20, np.random.default_rng(0))
    assert len(set(group[found].tolist())) >= 17
    at_random = np.random.default_rng(0).choice(len(X), 20, replace=False)
    assert len(set(group[at_random].tolist())) < 8


def test_a_row_near_the_middle_stands_for_its_group() -> None:
    """Plain k-means++ would take rows at the rim more often than not."""
    X, group = groups_of([200] * 5)
    found = representatives(X, 5, np.random.default_rng(1))
    for row in found.tolist():
        members = X[group == group[row]]
        to_middle = members @ unit(members.mean(axis=0, keepdims=True))[0]
        assert X[row] @ unit(members.mean(axis=0, keepdims=True))[0] >= np.quantile(to_middle, 0.9)


def test_what_is_known_already_needs_no_further_row() -> None:
    X, group = groups_of([50] * 10)
    known = greatest_similarity(X, X[group < 5])
    found = representatives(X, 5, np.random.default_rng(0), known=known)
    assert sorted(group[found].tolist()) == [5, 6, 7, 8, 9]


def test_weight_draws_the_choice() -> None:
    X, group = groups_of([50] * 10)
    found = representatives(X, 4, np.random.default_rng(0), weight=np.where(group < 4, 1.0, 0.0))
    assert sorted(group[found].tolist()) == [0, 1, 2, 3]


def test_blocks_change_nothing_and_a_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = groups_of([30] * 12)

    def chosen(seed: int) -> list[int]:
        return representatives(X, 20, np.random.default_rng(seed)).tolist()

    whole, similarity = chosen(3), greatest_similarity(X, X[:7])
    assert whole == chosen(3)
    assert whole != chosen(4)
    monkeypatch.setattr(spread, "BLOCK_BYTES", 4 * 20 * 50)
    assert chosen(3) == whole
    np.testing.assert_allclose(greatest_similarity(X, X[:7]), similarity, atol=1e-6)
