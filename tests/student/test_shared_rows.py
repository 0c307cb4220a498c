"""Rows left out of learning, and rows that two labels share: learned as weighted, judged as they were."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.student.before_after import effect_by_level
from tasks.student.crossfit import splits
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead
from tasks.student.shared_rows import shared
from tasks.student.training import Rows, train_candidates

Clusters = tuple[np.ndarray, np.ndarray]


def rows_of(clusters: Clusters, n: int = 300) -> Rows:
    X, y = clusters[0][:n], clusters[1][:n].astype(np.int64)
    return Rows(X, y, y.copy(), (np.arange(n) % 5).astype(np.int16), np.ones(n, np.float32))


def test_rows_without_a_share_are_judged_but_not_learned(clusters: Clusters) -> None:
    rows = rows_of(clusters)
    share = np.where(np.arange(300) % 10 == 0, 0.0, 1.0)
    fewer = shared(rows, share, np.full(300, -1))
    assert np.array_equal(fewer.labels < 0, share == 0)
    assert np.array_equal(fewer.raw_labels, rows.raw_labels)
    [candidate], _ = train_candidates(["linear"], fewer, 6, 0, near=3.0)
    kept = share > 0
    alone = Rows(
        rows.vectors[kept], rows.labels[kept], rows.raw_labels[kept], rows.folds[kept], rows.weight[kept]
    )
    [without], _ = train_candidates(["linear"], alone, 6, 0, near=3.0)
    assert np.allclose(
        candidate.model.predict_proba(rows.vectors), without.model.predict_proba(rows.vectors), atol=1e-4
    )
    assert candidate.out_of_fold.shape == (300, 6)
    assert np.allclose(candidate.out_of_fold[~kept].sum(axis=1), 1, atol=1e-4)
    assert np.array_equal(fewer.settled().labels, rows.labels)


def test_a_shared_row_never_helps_to_judge_itself(clusters: Clusters) -> None:
    """Its second half is learned where the first one is, held out where the first one is, and judges nothing."""
    rows = rows_of(clusters)
    share = np.where(np.arange(300) < 40, 0.25, 1.0)
    rest = np.where(np.arange(300) < 40, (rows.labels + 1) % 6, -1)
    soft = shared(rows, share, rest)
    assert (soft.repeated, len(soft.labels)) == (40, 340)
    assert soft.weight.sum() == pytest.approx(rows.weight.sum())
    assert np.array_equal(soft.labels[300:], rest[:40])
    assert np.all(soft.raw_labels[300:] == -1)
    for train, held_out in splits(soft.labels, soft.folds):
        first = set(np.flatnonzero(soft.folds == soft.folds[held_out[0]]).tolist())
        assert not {row - 300 for row in train.tolist() if row >= 300} & first
        assert held_out.max() < 300
    back = soft.settled()
    assert (len(back.labels), back.repeated) == (300, 0)
    assert np.array_equal(back.labels, rows.labels)
    assert np.all(back.weight == 1)


def test_two_weighted_rows_are_a_soft_label(clusters: Clusters) -> None:
    """With a quarter for one label and the rest for the other, that is what a head learns to say."""
    X = np.repeat(np.eye(2, 16, dtype=np.float32), 50, axis=0)
    y = np.repeat([0, 1], 50).astype(np.int64)
    rows = Rows(X, y, y, (np.arange(100) % 5).astype(np.int16), np.ones(100, np.float32))
    soft = shared(rows, np.where(y == 0, 0.25, 1.0), np.where(y == 0, 1, -1))
    head = LinearHead(strength=300.0).fit(soft.vectors, soft.labels, soft.weight, n_leaves=2, seed=0)
    assert head.predict_proba(X[:1])[0] == pytest.approx([0.25, 0.75], abs=0.03)


def test_the_table_by_level_is_paired() -> None:
    """What both students get right or wrong is no difference; the interval holds the difference itself."""
    tree = Levels(("upper", "leaf"), (np.array([0, 0, 1, 1], np.int32), np.arange(4, dtype=np.int32)), (2, 4))
    y = np.arange(400) % 4
    before = np.eye(4)[np.where(np.arange(400) < 60, y ^ 1, y)]
    after = np.eye(4)[np.where(np.arange(400) < 20, y ^ 1, y)]
    upper, leaf = effect_by_level(before, after, y, tree)
    assert (upper.before[0], upper.after[0], upper.delta[0]) == (1.0, 1.0, 0.0)
    assert (leaf.before[0], leaf.after[0]) == (0.85, 0.95)
    assert leaf.delta[0] == pytest.approx(0.1)
    assert 0 < leaf.delta[1] < 0.1 < leaf.delta[2]
    same = effect_by_level(before, before, y, tree)[1]
    assert same.delta[0] == 0.0
    assert same.delta[1] < 0 < same.delta[2]
