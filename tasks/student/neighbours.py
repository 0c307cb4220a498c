"""Exact nearest neighbours by cosine, in blocks, and what they vote for.

Knows unit-length vectors and leaf indices. Cost grows with queries x reference rows: serving passes a bounded
reference set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.student.crossfit import splits, unjudged_probabilities

K = 15
SHARPNESS = 40.0
"""A neighbour's vote weighs exp(SHARPNESS x cosine): one at cosine 0.9 counts 55 times as much as one at 0.8."""

BLOCK_BYTES = 64 * 1024 * 1024


def nearest(
    X: NDArray[np.float32], reference: NDArray[np.float32], k: int = K
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k reference rows most similar to each row of X, the most similar first.

    Args:
        X: float32 [n, d], unit length.
        reference: float32 [m, d], unit length, m at least 1.
        k: fewer are returned where the reference has fewer rows.

    Returns:
        Cosine similarities float32 [n, k] in [-1, 1] and row indices int64 [n, k].
    """
    k = min(k, len(reference))
    similarity = np.empty((len(X), k), np.float32)
    index = np.empty((len(X), k), np.int64)
    step = max(1, BLOCK_BYTES // (4 * max(1, len(reference))))
    for start in range(0, len(X), step):
        block = X[start : start + step] @ reference.T
        rows = np.arange(len(block))[:, None]
        top = np.argpartition(block, len(reference) - k, axis=1)[:, len(reference) - k :]
        order = np.argsort(-block[rows, top], axis=1, kind="stable")
        index[start : start + step] = top[rows, order]
        similarity[start : start + step] = block[rows, top[rows, order]]
    return similarity, index


def votes(
    X: NDArray[np.float32],
    reference: NDArray[np.float32],
    y: NDArray[np.integer],
    n_leaves: int,
    k: int = K,
    sharpness: float = SHARPNESS,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """The share of its neighbours' votes that each leaf gets, nearer neighbours counting more.

    Args:
        X: float32 [n, d], unit length.
        reference: float32 [m, d], unit length, m at least 1.
        y: leaf indices [m].
        n_leaves: columns of the result.
        k: neighbours asked.
        sharpness: see `SHARPNESS`.
        weight: non-negative [m], multiplies a neighbour's vote.

    Returns:
        float32 [n, n_leaves], rows summing to 1.
    """
    similarity, index = nearest(X, reference, k)
    strength = np.exp(sharpness * (similarity - similarity[:, :1]))
    if weight is not None:
        strength = strength * (weight[index] + 1e-12)
    strength /= strength.sum(axis=1, keepdims=True)
    P = np.zeros((len(X), n_leaves), np.float32)
    np.add.at(P, (np.arange(len(X))[:, None], y[index]), strength)
    return P


def cross_fitted_votes(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    folds: NDArray[np.integer],
    n_leaves: int,
    k: int = K,
    sharpness: float = SHARPNESS,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Votes of the neighbours outside each row's fold: neither the row nor its near-duplicates vote for themselves.

    Args:
        X: float32 [n, d], unit length.
        y: leaf indices [n]; unlabelled rows (-1) get votes and give none.
        folds: [n], by near-duplicate group.
        n_leaves: columns of the result.
        k: neighbours asked.
        sharpness: see `SHARPNESS`.
        weight: non-negative [n].

    Returns:
        float32 [n, n_leaves], rows summing to 1.

    Raises:
        TrainingError: all labelled rows share one fold.
    """
    P = unjudged_probabilities(len(y), n_leaves)
    for train, held_out in splits(y, folds):
        w = None if weight is None else weight[train]
        P[held_out] = votes(X[held_out], X[train], y[train], n_leaves, k, sharpness, w)
    return P
