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
        folds: [n]; rows with the same number are held out together.
        weight: non-negative [n].
        n_leaves: columns of the result.
        seed: handed to every fit.

    Returns:
        float32 [n, n_leaves], rows summing to 1.

    Raises:
        TrainingError: all labelled rows share one fold, so nobody is left to judge them.
    """
    P = np.zeros((len(y), n_leaves), np.float32)
    for train, held_out in splits(y, folds):
        head = make_head().fit(
            X[train], y[train], None if weight is None else weight[train], n_leaves=n_leaves, seed=seed
        )
        P[held_out] = head.predict_proba(X[held_out])
    return P


def splits(
    y: NDArray[np.integer], folds: NDArray[np.integer]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each fold, the indices of the labelled rows outside it and of all rows inside it.

    Raises:
        TrainingError: a fold would have nothing to learn from.
    """
    labelled = y != UNLABELLED
    found = []
    for fold in np.unique(folds):
        train = np.flatnonzero(labelled & (folds != fold))
        if not len(train):
            raise TrainingError(
                f"all {int(labelled.sum())} labelled rows are in one fold",
                "label more items, or items that are not near-duplicates of each other",
            )
        found.append((train, np.flatnonzero(folds == fold)))
    return found
