"""Nearest neighbours through cells: nearly the exact ones, never out of a row's own fold."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.cleaning import evidence
from tasks.student.cells import cross_fitted_votes_of_many, nearest_outside
from tasks.student.crossfit import UNLABELLED, never_judged
from tasks.student.neighbours import cross_fitted_votes, nearest
from tests.student.test_many_rows import many_clusters

ROWS, K = 3_000, 5


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, y = many_clusters(ROWS, 16, leaves=20)
    return X, y, (np.random.default_rng(1).integers(0, 5, ROWS)).astype(np.int16)


def test_most_of_the_nearest_are_found_and_all_of_them_where_every_cell_is_searched(
    clusters: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """With all cells probed the answer is exact; with a few of 55 most of it, in order, similarities true."""
    X, _, folds = clusters
    everybody = np.arange(ROWS)
    outside, inside = everybody[folds != 2], everybody[folds == 2]
    exact, places = nearest(X[inside], X[outside], K)
    every, all_index = nearest_outside(X, everybody, everybody, folds, K, probed=1_000)
    assert np.allclose(every[inside], exact, atol=1e-5)
    assert (all_index[inside] == outside[places]).mean() > 0.99  # equal similarities may change places
    some, index = nearest_outside(X, everybody, everybody, folds, K)
    found = [len(set(a) & set(b)) for a, b in zip(index[inside], outside[places], strict=True)]
    assert sum(found) / (K * len(inside)) > 0.5
    assert (np.diff(some, axis=1) <= 0).all()
    assert np.allclose((X[:, None, :] * X[index]).sum(axis=2), some, atol=1e-5)


def test_nobody_is_found_in_a_rows_own_fold_and_only_those_who_may_be(
    clusters: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Rows that are never judged go with their fold; rows outside the reference are nobody's neighbours."""
    X, _, folds = clusters
    folds = folds.copy()
    folds[::10] = never_judged(folds[::10])
    reference = np.flatnonzero(np.arange(ROWS) % 3 > 0)
    asked = np.flatnonzero(folds >= 0)
    similarity, index = nearest_outside(X, asked, reference, folds, K)
    own = np.where(folds >= 0, folds, -1 - folds)
    assert np.isfinite(similarity[:, 0]).all()
    assert (own[index] != own[asked][:, None]).all()
    assert np.isin(index, reference).all()


def test_a_row_whose_cells_hold_only_its_own_fold_still_has_a_neighbour() -> None:
    """Folds that lie in corners of their own share no cell."""
    X = np.repeat(np.eye(2, 8, dtype=np.float32), 200, axis=0)
    X += 0.01 * np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    folds = np.repeat(np.array([0, 1], np.int16), 200)
    similarity, index = nearest_outside(X, np.arange(400), np.arange(400), folds, K, probed=1)
    assert np.isfinite(similarity[:, 0]).all()
    assert (folds[index] != folds[:, None]).all()


def test_votes_through_cells_say_nearly_what_all_neighbours_say(
    clusters: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Rows sum to 1, rows that are never judged are uniform, and the votes are right about as often."""
    X, y, folds = clusters
    labels, folds = y.copy(), folds.copy()
    labels[::7] = UNLABELLED
    folds[::11] = never_judged(folds[::11])
    exact = cross_fitted_votes(X, labels, folds, 20)
    found = cross_fitted_votes_of_many(X, labels, folds, 20, 15, 40.0)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(found[folds < 0], 1 / 20)
    judged = folds >= 0
    right, right_through_cells = ((P.argmax(axis=1) == y)[judged].mean() for P in (exact, found))
    assert right_through_cells > right - 0.05


def test_cleaning_takes_cells_of_many_rows_only(
    clusters: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows are compared one by one, as before; of many the votes are nearly the same."""
    X, y, folds = clusters
    exact = evidence.neighbours_outside(X, y, folds)
    monkeypatch.setattr(evidence, "IN_CELLS_FROM", ROWS // 2)
    through_cells = evidence.neighbours_outside(X, y, folds)
    assert not np.array_equal(exact.index, through_cells.index)
    said, nearly = (found.votes(y, 20).argmax(axis=1) for found in (exact, through_cells))
    assert (said == nearly).mean() > 0.7
