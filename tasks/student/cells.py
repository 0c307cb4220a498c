"""Nearest neighbours among many rows: they are gathered in cells about means, and only the nearest cells are searched.

An inverted file (Sivic & Zisserman, ICCV 2003; Jegou et al., PAMI 2011): with as many cells as the root of the rows the
work grows with the rows to the power of 1.5 instead of 2. What is found is nearly what `neighbours.nearest` finds.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.student.crossfit import UNLABELLED, unjudged_probabilities
from tasks.student.many_rows import blocks, drawn
from tasks.student.neighbours import largest, voted

IN_CELLS_FROM = 50_000
"""Of fewer rows every one is compared with every other."""

PROBED = 4
"""Cells searched about each row (notebooks/LOG.md: what more of them would find)."""

STEPS = 4
ROWS_A_CELL = 32
"""So many rows about each mean place it."""

BLOCK_BYTES = 16 * 1024 * 1024


def nearest_outside(
    X: NDArray[np.float32],
    asked: NDArray[np.intp],
    reference: NDArray[np.intp],
    folds: NDArray[np.integer],
    k: int,
    probed: int = PROBED,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of each row asked about about the k most similar reference rows outside its fold, the most similar first.

    Args:
        X: float32 [m, d], unit length.
        asked: rows of X [n].
        reference: rows of X that may be found, in several folds.
        folds: [m]; a `never_judged` row goes with its fold.
        k: how many are wanted, at least 1.
        probed: cells searched about each row.
        seed: of the cells' means.

    Returns:
        Cosine similarities float32 [n, k] in [-1, 1] and rows of X int64 [n, k]; where fewer were found the rest have
        similarity -inf, and repeat the first row. Each row asked about has at least one.
    """
    workers, folds = min(16, os.cpu_count() or 1), np.where(folds >= 0, folds, -1 - folds)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        centres = _means(X[drawn(reference, seed, ROWS_A_CELL * _cells(len(reference)))], seed)
        parts = blocks(asked)
        probes = np.concatenate(list(pool.map(lambda part: _nearest_cells(X[part], centres, probed), parts)))
        cell_of = np.concatenate(
            list(pool.map(lambda part: _nearest_cells(X[part], centres, 1), blocks(reference)))
        )[:, 0]
        members = [reference[rows] for rows in _grouped(cell_of, len(centres))]
        similarity = np.full((len(asked), k), -np.inf, np.float32)
        index = np.zeros((len(asked), k), np.int64)

        def search(cell: int, places: NDArray[np.intp]) -> None:
            own = folds[asked[places]]
            for fold in np.unique(own):
                here = places[own == fold]
                among = members[cell][folds[members[cell]] != fold]
                if len(among):
                    _improve(similarity, index, here, X, asked[here], among)

        for rank in range(probes.shape[1]):  # a row is met once in each round, so that cells go side by side
            rounds = [
                (cell, rows) for cell, rows in enumerate(_grouped(probes[:, rank], len(centres))) if len(rows)
            ]
            list(pool.map(lambda pair: search(*pair), rounds))
        for fold in np.unique(
            folds[asked[np.isneginf(similarity).all(axis=1)]]
        ):  # its cells held nobody else
            lost = np.flatnonzero(np.isneginf(similarity).all(axis=1) & (folds[asked] == fold))
            _improve(
                similarity, index, lost, X, asked[lost], drawn(reference[folds[reference] != fold], seed)
            )
    order = np.argsort(-similarity, axis=1, kind="stable")
    similarity, index = (
        np.take_along_axis(similarity, order, axis=1),
        np.take_along_axis(index, order, axis=1),
    )
    return similarity, np.where(np.isneginf(similarity), index[:, :1], index)


def cross_fitted_votes_of_many(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    folds: NDArray[np.integer],
    n_leaves: int,
    k: int,
    sharpness: float,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """`neighbours.cross_fitted_votes`, nearly: of very many rows."""
    P, judged = unjudged_probabilities(len(y), n_leaves), np.flatnonzero(folds >= 0)
    similarity, index = nearest_outside(X, judged, np.flatnonzero(y != UNLABELLED), folds, k)
    P[judged] = voted(similarity, index, y, n_leaves, sharpness, weight)
    return P


def _cells(rows: int) -> int:
    return max(1, round(rows**0.5))


def _improve(
    similarity: NDArray[np.float32],
    index: NDArray[np.int64],
    places: NDArray[np.intp],
    X: NDArray[np.float32],
    asked: NDArray[np.intp],
    among: NDArray[np.intp],
) -> None:
    """Afterwards the best of `among` stand beside what was known at those places, as far as they are better."""
    k, reference = similarity.shape[1], X[among].T
    step = max(1, BLOCK_BYTES // (4 * len(among)))
    for start in range(0, len(places), step):
        here = places[start : start + step]
        block = X[asked[start : start + step]] @ reference
        top = largest(block, min(k, len(among)))
        both = np.concatenate([similarity[here], np.take_along_axis(block, top, axis=1)], axis=1)
        rows = np.concatenate([index[here], among[top]], axis=1)
        best = np.argpartition(both, both.shape[1] - k, axis=1)[:, both.shape[1] - k :]
        similarity[here] = np.take_along_axis(both, best, axis=1)
        index[here] = np.take_along_axis(rows, best, axis=1)


def _means(X: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Spherical k-means, a few steps from rows drawn at random; a mean that loses all its rows stays where it was."""
    count = max(1, len(X) // ROWS_A_CELL)
    means = X[np.random.default_rng(seed).choice(len(X), count, replace=False)].astype(np.float32)
    for _ in range(STEPS):
        nearest = np.concatenate(
            [_nearest_cells(X[part], means, 1)[:, 0] for part in blocks(np.arange(len(X)))]
        )
        order = np.argsort(nearest, kind="stable")
        found, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(X[order], starts, axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        means[found] = np.where(lengths > 0, sums / np.maximum(lengths, np.float32(1e-12)), means[found])
    return means


def _nearest_cells(X: NDArray[np.float32], centres: NDArray[np.float32], probed: int) -> NDArray[np.int32]:
    """int32 [n, probed], the nearest first."""
    similarity, rows = X @ centres.T, np.arange(len(X))
    found = np.empty((len(X), min(probed, len(centres))), np.int32)
    for rank in range(found.shape[1]):
        found[:, rank] = similarity.argmax(axis=1)
        similarity[rows, found[:, rank]] = -np.inf
    return found


def _grouped(cells: NDArray[np.int32], count: int) -> list[NDArray[np.intp]]:
    """The places of each cell number."""
    order = np.argsort(cells, kind="stable")
    return np.split(order, np.searchsorted(cells[order], np.arange(1, count)))
