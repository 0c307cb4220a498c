"""Folds that outlive a night, and probabilities for each row from a model that never saw its label.

Knows nothing about what a head is beyond `fit` and `predict_proba`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError

UNLABELLED = -1
"""As a row's label: judge it, learn nothing from it."""


def never_judged(folds: NDArray[np.int16]) -> NDArray[np.int16]:
    """As a row's fold: learn from it, except where that fold is judged, and never judge it (-1 - fold)."""
    return (-1 - folds).astype(np.int16)


def rows_that_judge(y: NDArray[np.integer], folds: NDArray[np.integer]) -> NDArray[np.bool_]:
    """bool [n], the rows whose out-of-fold probabilities say how good a head is."""
    return (y != UNLABELLED) & (folds >= 0)


def unjudged_probabilities(n: int, n_leaves: int) -> NDArray[np.float32]:
    """float32 [n, n_leaves], uniform: what stays of rows that are never judged."""
    return np.full((n, n_leaves), 1.0 / n_leaves, np.float32)


class Fits(Protocol):
    """What can be cross-fitted."""

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        """Learn from all rows."""
        ...

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, n_leaves], rows summing to 1."""
        ...


def fold_of(
    groups: Sequence[str | bytes | int] | NDArray[np.generic], k: int, seed: int
) -> NDArray[np.int16]:
    """The fold of each row: a hash of its group's key, so that it stays when rows are appended.

    Pass the key of the group's first row (`tasks.duplicates.near_duplicate_groups` gives its index), never a
    running number that another night would hand to another group.

    Args:
        groups: keys [n]; rows with equal keys share a fold.
        k: number of folds, at least 2.
        seed: another seed, other folds.

    Returns:
        int16 [n] in [0, k). With few groups some folds may be empty.

    Raises:
        TrainingError: k is below 2.
    """
    if k < 2:
        raise TrainingError(f"{k} folds cannot keep a row from its own judge", "use 2 folds or more")
    salt = str(seed).encode()
    known: dict[object, int] = {}
    keys = groups.tolist() if isinstance(groups, np.ndarray) else groups
    for key in keys:
        if key not in known:
            raw = key if isinstance(key, bytes) else str(key).encode()
            digest = hashlib.blake2b(raw, digest_size=8, key=salt).digest()
            known[key] = int.from_bytes(digest, "little") % k
    return np.fromiter((known[key] for key in keys), np.int16, len(keys))


def cross_fitted_probabilities(
    make_head: Callable[[], Fits],
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    folds: NDArray[np.integer],
    weight: NDArray[np.floating] | None = None,
    *,
    n_leaves: int,
    seed: int,
) -> NDArray[np.float32]:
    """Each row judged by a head fitted on the other folds only.

    Args:
        make_head: returns a fresh, unfitted head; called once a fold.
        X: [n, d].
        y: leaf indices [n]; rows marked `UNLABELLED` are judged but never learned from.
        folds: [n]; rows with the same number are held out together, `never_judged` ones never.
        weight: non-negative [n].
        n_leaves: columns of the result.
        seed: handed to every fit.

    Returns:
        float32 [n, n_leaves], rows summing to 1; uniform for rows that are never judged.

    Raises:
        TrainingError: all labelled rows share one fold, so nobody is left to judge them.
    """
    P = unjudged_probabilities(len(y), n_leaves)
    for train, held_out in splits(y, folds):
        head = make_head().fit(
            X[train], y[train], None if weight is None else weight[train], n_leaves=n_leaves, seed=seed
        )
        P[held_out] = head.predict_proba(X[held_out])
    return P


def splits(
    y: NDArray[np.integer], folds: NDArray[np.integer]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each fold that is judged, the indices of the labelled rows outside it and of all rows inside it.

    A row that is `never_judged` is outside every fold but the one it goes with, where it is nowhere.

    Raises:
        TrainingError: a fold would have nothing to learn from.
    """
    labelled = y != UNLABELLED
    found = []
    for fold in np.unique(folds[folds >= 0]):
        train = np.flatnonzero(labelled & (folds != fold) & (folds != -1 - fold))
        if not len(train):
            raise TrainingError(
                f"all {int(labelled.sum())} labelled rows are in one fold",
                "label more items, or items that are not near-duplicates of each other",
            )
        found.append((train, np.flatnonzero(folds == fold)))
    return found
