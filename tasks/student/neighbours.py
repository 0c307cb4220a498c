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

GROUP = 64
"""The best of each so many similarities is found first: most groups then need no second look."""


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
        top = largest(block, k)
        found = np.take_along_axis(block, top, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        index[start : start + step] = np.take_along_axis(top, order, axis=1)
        similarity[start : start + step] = np.take_along_axis(found, order, axis=1)
    return similarity, index


def largest(block: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Where the k largest of each row [n, m] are, int64 [n, k], in no order.

    They lie in the k groups whose best are largest: each other group is beaten by one of every such group.
    """
    n, m = block.shape
    groups = m // GROUP
    if groups <= 4 * k:  # hardly a group that could be left out
        return np.argpartition(block, m - k, axis=1)[:, m - k :]
    even = groups * GROUP
    grouped = block[:, :even].reshape(n, groups, GROUP)
    best = grouped.max(axis=2)
    kept = np.argpartition(best, groups - k, axis=1)[:, groups - k :]
    places = (kept[:, :, None] * GROUP + np.arange(GROUP)).reshape(n, k * GROUP)
    places = np.concatenate([places, np.broadcast_to(np.arange(even, m), (n, m - even))], axis=1)
    among = np.take_along_axis(block, places, axis=1)
    width = places.shape[1]
    return np.take_along_axis(places, np.argpartition(among, width - k, axis=1)[:, width - k :], axis=1)


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
    return voted(similarity, index, y, n_leaves, sharpness, weight)


def voted(
    similarity: NDArray[np.float32],
    index: NDArray[np.int64],
    y: NDArray[np.integer],
    n_leaves: int,
    sharpness: float,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """What neighbours [n, k] vote for, the nearest first; one of similarity -inf has no vote. See `votes`."""
    strength = np.exp(sharpness * (similarity - similarity[:, :1]))
    if weight is not None:
        strength = strength * (weight[index] + 1e-12)
    strength /= strength.sum(axis=1, keepdims=True)
    P = np.zeros((len(index), n_leaves), np.float32)
    np.add.at(P, (np.arange(len(index))[:, None], y[index]), strength)
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
