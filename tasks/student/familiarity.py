"""How like what its label was learned from an item is, measured to few prototypes of that label.

Knows vectors and leaf indices. How sure the student is, and above which score it answers, is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError
from tasks.student.crossfit import splits

PER_LABEL = 16
"""Prototypes a label: 32 are a little better, 8 a little worse (HWU64, in the log)."""

MOST = 8192
"""Prototypes in all; where there are more labels than fit, each has fewer, at least one."""

SHARPNESS = 1.0
"""An item as far again from its label as the typical one loses this much of its log-odds."""

ROWS_A_LABEL = 1024
STEPS = 8
BLOCK_ROWS = 8192
NOWHERE = 2.0
"""The distance where there is no prototype: that of opposite vectors."""

LEAST_TYPICAL = 0.01
"""Where items of a label hardly differ, what is this near counts as typical all the same."""

FILE = "prototypes.safetensors"


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Prototypes by label.

    Attributes:
        vectors: float32 [m, d], unit length, those of a leaf side by side.
        first: int64 [leaves + 1], the leaf's prototypes stand from `first[leaf]` to `first[leaf + 1]`.
        typical: the median distance of training items to the label they were answered with, above 0.
    """

    vectors: NDArray[np.float32]
    first: NDArray[np.int64]
    typical: float

    def familiarity(self, X: NDArray[np.float32], leaf: NDArray[np.integer]) -> NDArray[np.float32]:
        """By what the odds of each answer are to be multiplied, float32 [n], above 0.

        1 at the typical distance, at most exp(`SHARPNESS`) on a prototype, and exp(-`SHARPNESS`) less for each typical
        distance more.

        Args:
            X: float32 [n, d], of any length but 0.
            leaf: int [n], what was answered.
        """
        return factor(self.distances(X, leaf), self.typical)

    def distances(self, X: NDArray[np.float32], leaf: NDArray[np.integer]) -> NDArray[np.float32]:
        """1 - cosine to the nearest prototype of the leaf, float32 [n] in [0, 2]; see `familiarity`."""
        cosine = np.full(len(X), 1 - NOWHERE, np.float32)
        for start in range(0, len(X), BLOCK_ROWS):
            here = slice(start, start + BLOCK_ROWS)
            block, answered = np.asarray(X[here], np.float32), leaf[here]
            lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", block, block)), np.float32(1e-12))
            order = np.argsort(answered, kind="stable")
            leaves, starts = np.unique(answered[order], return_index=True)
            for one, rows in zip(leaves.tolist(), np.split(order, starts[1:]), strict=True):
                among = self.vectors[self.first[one] : self.first[one + 1]]
                if len(among):
                    cosine[start + rows] = (block[rows] @ among.T).max(axis=1) / lengths[rows]
        return np.clip(1 - cosine, 0, NOWHERE)

    def save(self, folder: Path) -> None:
        """Write the arrays beside the head's; `typical` with them."""
        from safetensors.numpy import save_file

        typical = np.array([self.typical], np.float64)
        save_file({"vectors": self.vectors, "first": self.first, "typical": typical}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is not there or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays: dict[str, NDArray[Any]] = load_file(folder / FILE)
        except (OSError, SafetensorError) as error:
            raise InputError(
                folder / FILE, f"cannot be read as prototypes ({error})", "train the student again"
            ) from error
        return cls(arrays["vectors"], arrays["first"], float(arrays["typical"][0]))


def fit_prototypes(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    folds: NDArray[np.integer],
    answered: NDArray[np.integer],
    *,
    n_leaves: int,
    per_label: int = PER_LABEL,
    seed: int,
) -> tuple[Prototypes, NDArray[np.float32]]:
    """Prototypes of all labelled rows, and each row's familiarity as those of the other folds alone would have it.

    Args:
        X: float32 [n, d].
        y: leaf indices [n]; unlabelled rows (-1) give no prototype.
        folds: [n], by near-duplicate group; rows that are never judged have familiarity 1.
        answered: int [n], the leaf each row was answered with out of fold.
        n_leaves: of the taxonomy.
        per_label: at least 1.
        seed: of where the means start.

    Raises:
        TrainingError: all labelled rows share one fold.
    """
    distance = np.full(len(y), np.nan, np.float32)
    for train, held_out in splits(y, folds):
        others = Prototypes(*_prototypes(X, y, train, n_leaves, per_label, seed), 1.0)
        distance[held_out] = others.distances(X[held_out], answered[held_out])
    judged = np.isfinite(distance)
    typical = max(float(np.median(distance[judged])), LEAST_TYPICAL)
    everything = Prototypes(*_prototypes(X, y, np.flatnonzero(y >= 0), n_leaves, per_label, seed), typical)
    return everything, np.where(judged, factor(distance, typical), 1).astype(np.float32)


def factor(distance: NDArray[np.float32], typical: float) -> NDArray[np.float32]:
    """exp(-`SHARPNESS` x (distance / typical - 1)), float32 [n]."""
    return np.exp(-SHARPNESS * (distance / typical - 1)).astype(np.float32)


def _prototypes(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    rows: NDArray[np.intp],
    n_leaves: int,
    per_label: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of each leaf the directions its rows gather around: `Prototypes.vectors` and `Prototypes.first`."""
    at_most = max(1, min(per_label, MOST // n_leaves))
    rows = rows[np.argsort(y[rows], kind="stable")]
    bounds = np.searchsorted(y[rows], np.arange(n_leaves + 1))
    found, first = [np.zeros((0, X.shape[1]), np.float32)], np.zeros(n_leaves + 1, np.int64)
    for leaf, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        rng = np.random.default_rng([seed, leaf])
        own = rows[start:end]
        if len(own) > ROWS_A_LABEL:
            own = np.sort(rng.choice(own, ROWS_A_LABEL, replace=False))
        found.append(_means(_unit(X[own].astype(np.float32)), at_most, rng))
        first[leaf + 1] = first[leaf] + len(found[-1])
    return np.concatenate(found), first


def _means(X: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Spherical k-means (Dhillon & Modha, Machine Learning 42, 2001), some steps from rows drawn at random."""
    if len(X) <= k:
        return X
    means = X[rng.choice(len(X), k, replace=False)]
    for _ in range(STEPS):
        nearest = (X @ means.T).argmax(axis=1)
        sums = (nearest[None, :] == np.arange(k)[:, None]).astype(np.float32) @ X
        kept = np.abs(sums).sum(axis=1) > 0
        means[kept] = _unit(sums[kept])
    return means


def _unit(X: NDArray[np.float32]) -> NDArray[np.float32]:
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.float32(1e-12)).astype(np.float32)
