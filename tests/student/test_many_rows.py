import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.crossfit import splits
from tasks.student.heads import Head
from tasks.student.linear import LinearHead
from tasks.student.many_rows import MANY_ROWS, SAMPLE_ROWS, blocks, drawn, fewer_folds
from tasks.student.mlp import MlpHead

Clusters = tuple[np.ndarray, np.ndarray]


def many_clusters(n: int, dimension: int, leaves: int = 3) -> Clusters:
    """Unit vectors [n, dimension] about as many centres, and which centre each came from."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(leaves, dimension)).astype(np.float32)
    y = rng.integers(0, leaves, n)
    X = centres[y] + rng.normal(scale=1.5, size=(n, dimension)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X.astype(np.float32), y


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 5))
def test_a_draw_is_of_the_rows_in_their_order(n: int, most: int, seed: int) -> None:
    rows = np.arange(n) * 3
    found = drawn(rows, seed, most)
    assert len(found) == min(n, most)
    assert np.isin(found, rows).all()
    assert all(a < b for a, b in pairwise(found.tolist()))
    assert np.array_equal(found, drawn(rows, seed, most))


@given(st.integers(0, 50), st.integers(1, 60))
def test_blocks_are_the_rows(n: int, most: int) -> None:
    rows = np.arange(n)[::-1]
    found = blocks(rows, most)
    assert np.array_equal(np.concatenate(found), rows)
    assert max(len(block) for block in found) <= most


def test_few_rows_keep_their_folds_and_many_are_judged_in_two_halves() -> None:
    """What went together still does, and what is never judged goes with the half of its fold."""
    few = np.arange(1000) % 5
    assert fewer_folds(few) is few
    folds = (np.arange(MANY_ROWS) % 5).astype(np.int16)
    folds[::7] = -1 - folds[::7]
    halves = fewer_folds(folds)
    assert np.array_equal(np.unique(halves), [-2, -1, 0, 1])
    for fold in range(5):
        half = np.unique(halves[folds == fold])
        assert len(half) == 1
        assert np.array_equal(np.unique(halves[folds == -1 - fold]), -1 - half)
    assert len(splits(np.zeros(MANY_ROWS, int), halves)) == 2
    assert 0.35 < (halves == 0).mean() / (halves >= 0).mean() < 0.65


def test_of_many_rows_the_linear_head_finds_the_same_minimum() -> None:
    """Scaled directions, blocks and threads lead to where scikit-learn gets."""
    from sklearn.linear_model import LogisticRegression

    X, y = many_clusters(SAMPLE_ROWS + 5000, 6)
    X[:, 0] *= 0.05  # directions that differ in variance
    ours = LinearHead(5.0).fit(X, y, n_leaves=3, seed=0).predict_proba(X)
    theirs = LogisticRegression(C=5.0, max_iter=1000).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


@pytest.mark.parametrize(
    ("make", "n", "dimension"),
    [(lambda: LinearHead(3.0), MANY_ROWS + 10_000, 96), (lambda: MlpHead(1), SAMPLE_ROWS + 10_000, 256)],
    ids=["linear", "mlp"],
)
def test_training_on_many_rows_copies_no_matrix(make: Callable[[], Head], n: int, dimension: int) -> None:
    """Tuned and fitted with less than the vectors' own memory beside them; nobody judges what it learned from."""
    X, y = many_clusters(n, dimension)
    told = y.copy()
    told[:3000] = (y[:3000] + 1) % 3  # wrong labels: a head that saw them would repeat some
    folds = (np.random.default_rng(1).permutation(len(y)) % 3).astype(np.int16)
    head = make()
    make().fit(X[:20], y[:20], n_leaves=3, seed=0)  # imports are not its memory
    tracemalloc.start()
    try:
        P = head.tune(X, told, folds, n_leaves=3, seed=0)
        head.fit(X, told, n_leaves=3, seed=0)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < X.nbytes
    assert (P.argmax(axis=1) == y).mean() > 0.9
    assert (P.argmax(axis=1)[:3000] == told[:3000]).mean() < 0.1
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-4)
    assert (head.predict_proba(X[:9000]).argmax(axis=1) == y[:9000]).mean() > 0.9
