"""Cleaning a snapshot: cross-fitted evidence in, proposed labels out; the room's one domain function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.relabel import Cleaning, clean
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead
from tasks.student.neighbours import cross_fitted_votes


def clean_rows(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: NDArray[np.int16],
    locked: NDArray[np.bool_],
    levels: Levels,
    cap: float,
    seed: int = 0,
) -> Cleaning:
    """Judge each label by a linear head and by neighbours that never saw it.

    Args:
        vectors: float32 [n, d].
        labels: raw leaf indices [n].
        folds: [n], by near-duplicate group.
        locked: bool [n], labels of people.
        levels: the tree.
        cap: no label loses more than this share.
        seed: of training.

    Raises:
        TrainingError: the rows cannot be cross-fitted.
    """
    P = LinearHead().tune(vectors, labels, folds, n_leaves=levels.n_leaves, seed=seed)
    V = cross_fitted_votes(vectors, labels, folds, levels.n_leaves)
    return clean(labels, P, V, levels, locked, max_loss=cap)
