from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.crossfit import UNLABELLED, cross_fitted_probabilities, fold_of
from tasks.student.neighbours import cross_fitted_votes, nearest, votes


class Remembers:
    """Gives all its probability to the label of the training row whose first entry equals the judged one's."""

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        self.known, self.n_leaves = {float(x[0]): int(label) for x, label in zip(X, y, strict=True)}, n_leaves
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        P = np.full((len(X), self.n_leaves), 1 / self.n_leaves, np.float32)
        for row, x in enumerate(X):
            if float(x[0]) in self.known:
                P[row] = np.eye(self.n_leaves)[self.known[float(x[0])]]
        return P


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 3)), min_size=1, max_size=40), st.integers(2, 6)
)
def test_folds_never_judge_their_own_rows(rows: list[tuple[int, int]], k: int) -> None:
    """A head that knows its training rows by heart knows nothing about those it judges, nor their group's."""
    groups, y = np.array([g for g, _ in rows]), np.array([label for _, label in rows])
    folds = fold_of(groups, k, seed=0)
    X = np.stack([groups, np.ones(len(rows))], axis=1).astype(np.float32)
    if len({int(f) for f in folds[y != UNLABELLED]}) < 2:
        with pytest.raises(TrainingError):
            cross_fitted_probabilities(Remembers, X, y, folds, n_leaves=4, seed=0)
        return
    P = cross_fitted_probabilities(Remembers, X, y, folds, n_leaves=4, seed=0)
    assert np.all(P == 0.25)
    leaky = cross_fitted_probabilities(Remembers, X, y, np.arange(len(rows)), n_leaves=4, seed=0)
    if np.any(np.bincount(groups[y != UNLABELLED]) > 1):
        assert np.any(leaky == 1), "the test can fail"


@given(
    st.lists(st.text(max_size=5), max_size=30), st.lists(st.text(max_size=5), max_size=30), st.integers(2, 7)
)
def test_folds_stay_when_rows_are_appended(old: list[str], new: list[str], k: int) -> None:
    before, after = fold_of(old, k, seed=1), fold_of(old + new, k, seed=1)
    assert np.array_equal(before, after[: len(old)])
    assert all(0 <= fold < k for fold in after)
    assert np.array_equal(after, fold_of([text.encode() for text in old + new], k, seed=1))


def test_folds_are_even_and_depend_on_the_seed() -> None:
    folds = fold_of(range(10_000), 5, seed=0)
    assert np.bincount(folds).min() > 1850
    assert (folds != fold_of(range(10_000), 5, seed=1)).mean() > 0.7
    with pytest.raises(TrainingError):
        fold_of(["a"], 1, seed=0)


def test_neighbours_are_exact_and_ordered(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    X, _ = clusters
    similarity, index = nearest(X[:50], X, k=7)
    full = X[:50] @ X.T
    np.testing.assert_allclose(similarity, -np.sort(-full, axis=1)[:, :7], atol=1e-5)
    assert np.array_equal(index[:, 0], np.arange(50))
    assert nearest(X[:3], X[:2], k=7)[1].shape == (3, 2)


def test_a_copy_in_the_same_fold_does_not_vote() -> None:
    """Two copies with a wrong label vote for it only where they sit in different folds."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[1] = X[0]
    y = np.zeros(60, int)
    y[:2] = 1
    together, apart = np.arange(60) % 5, np.arange(60) % 5
    together[1] = together[0]
    assert cross_fitted_votes(X, y, together, 2)[0, 1] == 0
    assert cross_fitted_votes(X, y, apart, 2)[0, 1] > 0.5
    np.testing.assert_allclose(votes(X, X, y, 2, weight=rng.random(60)).sum(axis=1), 1, atol=1e-5)
