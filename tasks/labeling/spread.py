"""Rows that stand for many others: k-means++ centres, refined, and the row nearest each of them.

Knows vectors and weights. What the rows are and why they are looked for is the caller's business.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

ROUNDS = 8  # of Lloyd's algorithm; the rows chosen hardly change after five
BLOCK_BYTES = 64 * 1024 * 1024
UNRELATED = -1.0


def unit(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one (a row of zeros stays), so that their products are cosine similarities."""
    return np.asarray(X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12), np.float32)


def greatest_similarity(X: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n], the cosine of each row of X [n, d] to the most similar reference row; -1 where there is none."""
    greatest = np.full(len(X), UNRELATED, np.float32)
    if not len(reference):
        return greatest
    step = max(1, BLOCK_BYTES // (4 * len(reference)))
    with threadpool_limits(1, "blas"):
        for first in range(0, len(X), step):
            greatest[first : first + step] = (X[first : first + step] @ reference.T).max(axis=1)
    return greatest


def representatives(
    X: NDArray[np.float32],
    k: int,
    rng: np.random.Generator,
    weight: NDArray[np.floating] | None = None,
    known: NDArray[np.float32] | None = None,
) -> NDArray[np.int64]:
    """k rows of X that stand for groups of similar rows, each the nearest to the centre of its group.

    Seeded by k-means++ (Arthur & Vassilvitskii, SODA 2007), refined by Lloyd's algorithm on the sphere, so that
    near-duplicates fall into one group and a row far from everything is rarely a centre; with weights this is the
    batch selection of Zhdanov ("Diverse mini-batch active learning", 2019). O(n k d) time.

    Args:
        X: float32 [n, d], rows of unit length.
        k: how many; all rows come back where there are no more.
        rng: decides the seeding.
        weight: [n], not negative; how much a row draws a centre towards itself.
        known: float32 [n], the similarity of each row to the nearest thing that is known already. Rows nearer to
            that than to any centre are in nobody's group.

    Returns:
        int64 [min(k, n)], distinct, in the order of the seeding.
    """
    n = len(X)
    if k >= n or k <= 0:
        return rng.permutation(n)[: max(k, 0)]
    mass = np.ones(n) if weight is None else np.maximum(weight.astype(np.float64), 1e-9)
    known = np.full(n, UNRELATED, np.float32) if known is None else known
    with threadpool_limits(1, "blas"):
        centres = X[_seeds(X, k, rng, mass, known)]
        pull = mass[:, None].astype(np.float32) * X
        for _ in range(ROUNDS):
            centres = _moved(X, pull, centres, known)
        return _nearest_rows(X, centres)


def _seeds(
    X: NDArray[np.float32],
    k: int,
    rng: np.random.Generator,
    weight: NDArray[np.float64],
    known: NDArray[np.float32],
) -> NDArray[np.int64]:
    """k-means++: each next row with probability proportional to weight x squared distance to what is there."""
    seeds = np.empty(k, np.int64)
    nearest = known.copy()
    for place in range(k):
        chance = weight * np.maximum(1.0 - nearest, 0.0)  # half the squared distance of unit vectors
        if (total := chance.cumsum())[-1] <= 1e-6:  # only copies of what is there are left
            left = np.setdiff1d(np.arange(len(X)), seeds[:place])
            seeds[place:] = rng.choice(left, k - place, replace=False)
            break
        seeds[place] = min(np.searchsorted(total, rng.random() * total[-1], side="right"), len(X) - 1)
        np.maximum(nearest, X @ X[seeds[place]], out=nearest)
        nearest[seeds[place]] = 1.0
    return seeds


def _moved(
    X: NDArray[np.float32],
    pull: NDArray[np.float32],
    centres: NDArray[np.float32],
    known: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Each centre at the weighted mean direction of its group; a centre without one stays."""
    sums = np.zeros_like(centres)
    step = max(1, BLOCK_BYTES // (4 * len(centres)))
    for first in range(0, len(X), step):
        similarity = X[first : first + step] @ centres.T
        group = similarity.argmax(axis=1)
        mine = similarity[np.arange(len(group)), group] > known[first : first + step]
        rows = np.flatnonzero(mine)
        order = rows[np.argsort(group[rows], kind="stable")]
        if len(order):
            held, starts = np.unique(group[order], return_index=True)
            sums[held] += np.add.reduceat(pull[first + order], starts, axis=0)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 1e-9, sums / np.maximum(length, 1e-9), centres)


def _nearest_rows(X: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """The row nearest each centre, no row for two of them."""
    rows = np.empty(len(centres), np.int64)
    free = np.zeros(len(X), np.float32)  # minus infinity where taken
    step = max(1, BLOCK_BYTES // (4 * len(X)))
    for first in range(0, len(centres), step):
        similarity = centres[first : first + step] @ X.T
        for place, near in enumerate(similarity, start=first):
            rows[place] = int(np.argmax(near + free))
            free[rows[place]] = -np.inf
    return rows
