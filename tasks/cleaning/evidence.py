"""What an item's neighbours bear witness to: votes for its label, and whether those most alike bear the same one.

Neighbours are sought outside an item's fold, so that neither it nor its near-duplicates speak for themselves. Knows
arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.cells import IN_CELLS_FROM, nearest_outside
from tasks.student.crossfit import UNLABELLED, splits
from tasks.student.neighbours import nearest, voted

NEIGHBOURS, SHARPNESS = 10, 20.0
"""A flatter vote than the student's own (15 and 40, which hears the first two or three): with wrong labels among the
neighbours more of them must speak. On HWU64 with 15 % wrong the vote alone is right for 80 % of the items instead of
77 %, and at a margin of 0.3 the rule leaves 11.3 instead of 11.9 % wrong."""

TWINS_SHARE = 0.1
"""The items nearest to another one, as a share of all: alike enough that a student cannot be blamed."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """float32 [n, k] similarities and int64 [n, k] row indices of the rows most alike outside each row's fold."""

    similarity: NDArray[np.float32]
    index: NDArray[np.int64]

    def votes(
        self, y: NDArray[np.integer], n_leaves: int, weight: NDArray[np.floating] | None = None
    ) -> NDArray[np.float32]:
        """The share of its neighbours' votes that each leaf gets, float32 [n, n_leaves]; nearer ones count more.

        Args:
            y: leaf indices [n].
            n_leaves: columns of the result.
            weight: non-negative [n], multiplies a neighbour's vote.
        """
        return voted(self.similarity, self.index, y, n_leaves, SHARPNESS, weight)

    def twins(self, heard: NDArray[np.bool_]) -> NDArray[np.int64]:
        """int64 [m, 2], the rows with the nearest neighbours, `TWINS_SHARE` of all, each beside its neighbour.

        Args:
            heard: bool [n], rows whose labels say something about those that are judged.
        """
        rows = np.flatnonzero(heard & heard[self.index[:, 0]])
        nearest_first = rows[np.argsort(-self.similarity[rows, 0], kind="stable")]
        kept = nearest_first[: round(TWINS_SHARE * len(rows))]
        return np.stack([kept, self.index[kept, 0]], axis=1)


def neighbours_outside(
    X: NDArray[np.float32], y: NDArray[np.integer], folds: NDArray[np.integer]
) -> Neighbours:
    """The labelled rows most alike outside each row's fold; of very many nearly the most alike, see `cells`.

    Args:
        X: float32 [n, d], unit length.
        y: leaf indices [n]; unlabelled rows (-1) are nobody's neighbours.
        folds: [n], by near-duplicate group.

    Raises:
        TrainingError: all labelled rows share one fold.
    """
    parts = splits(y, folds)
    labelled = np.flatnonzero(y != UNLABELLED)
    if len(labelled) > IN_CELLS_FROM:
        return Neighbours(*nearest_outside(X, np.arange(len(y)), labelled, folds, NEIGHBOURS))
    k = min([NEIGHBOURS, *(len(train) for train, _ in parts)])
    similarity, index = np.zeros((len(y), k), np.float32), np.zeros((len(y), k), np.int64)
    for train, held_out in parts:
        similarity[held_out], among = nearest(X[held_out], X[train], k)
        index[held_out] = train[among]
    return Neighbours(similarity, index)
