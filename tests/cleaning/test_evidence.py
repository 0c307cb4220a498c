"""What neighbours bear witness to: never oneself, never a near-duplicate, the nearest the most."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.cleaning.evidence import NEIGHBOURS, TWINS_SHARE, neighbours_outside
from tasks.errors import TrainingError


def cloud(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around four centres, the centre of each, and folds."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % 4
    X = np.eye(4, 8)[true] + 0.3 * rng.normal(size=(n, 8))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    return X, true.astype(np.int64), rng.integers(0, 5, n).astype(np.int16)


def test_neighbours_are_of_other_folds_and_labelled_and_the_nearest_come_first() -> None:
    X, y, folds = cloud(400)
    y[:40] = -1
    found = neighbours_outside(X, y, folds)
    assert found.index.shape == (400, NEIGHBOURS)
    assert np.all(folds[found.index] != folds[:, None])
    assert np.all(y[found.index] >= 0)
    assert np.all(np.diff(found.similarity, axis=1) <= 0)
    rows = np.arange(400)[:, None]
    assert np.allclose(found.similarity, (X[rows] * X[found.index]).sum(axis=2), atol=1e-5)


def test_the_vote_is_of_labels_around_not_of_ones_own() -> None:
    """A wrong label in a clear cloud is outvoted; without weight a neighbour is not heard."""
    X, true, folds = cloud(400)
    y = true.copy()
    y[0] = (true[0] + 1) % 4
    found = neighbours_outside(X, y, folds)
    V = found.votes(y, 4)
    assert np.allclose(V.sum(axis=1), 1, atol=1e-5)
    assert V[0].argmax() == true[0]
    assert (V.argmax(axis=1) == true).mean() > 0.9
    y[found.index[0, :-1]], heard = 3, np.ones(400)
    assert found.votes(y, 4, heard)[0].argmax() == 3
    heard[found.index[0, :-1]] = 0.0
    assert found.votes(y, 4, heard)[0].argmax() == true[0] != 3


def test_twins_are_the_tenth_with_the_nearest_neighbours() -> None:
    X, y, folds = cloud(400)
    X[7], folds[7], folds[9] = X[9], 0, 1
    found = neighbours_outside(X, y, folds)
    twins = found.twins(np.ones(400, bool))
    assert twins.shape == (round(TWINS_SHARE * 400), 2)
    assert [7, 9] in twins[:2].tolist()
    assert found.similarity[twins[:, 0], 0].min() >= np.delete(found.similarity[:, 0], twins[:, 0]).max()
    heard = np.arange(400) != 9
    assert 9 not in found.twins(heard)
    assert found.twins(np.zeros(400, bool)).shape == (0, 2)


def test_fewer_rows_than_neighbours_and_a_single_fold() -> None:
    X, y, _ = cloud(4)
    few = neighbours_outside(X, y, np.array([0, 0, 1, 1], np.int16))
    assert few.index.shape == (4, 2)
    with pytest.raises(TrainingError, match="one fold"):
        neighbours_outside(X, y, np.zeros(4, np.int16))
