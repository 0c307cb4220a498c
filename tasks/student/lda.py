"""Linear discriminant analysis with shrinkage: closed form, sturdy under noise and with few rows a label.

One pass over the rows gives sums from which every fold and every shrinkage follows; a fitted one predicts as a linear
head does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.student.calibration import apply_temperature, fit_temperature, log_loss
from tasks.student.crossfit import rows_that_judge, splits, unjudged_probabilities
from tasks.student.heads import (
    check_rows,
    read_arrays,
    read_settings,
    softmax,
    spread,
    tune_itself,
    write_head,
)
from tasks.student.linear import LinearHead
from tasks.student.many_rows import blocks, drawn, fill, temper

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
"""The grid: how far the covariance within labels is drawn towards a multiple of the identity."""

USUAL_SHRINKAGE = 0.2
"""Where there are too few rows to choose."""

LEAST_VARIANCE = 1e-3
"""The variance within labels, as a share of the vectors' own, is not taken below this: where every label has one row
there is none."""


class LdaHead(LinearHead):
    """Normal densities of one covariance S for all labels, drawn to (1 - a) S + a tr(S)/d I, and the labels' shares.

    Friedman, "Regularized discriminant analysis", JASA 84, 1989, for the form; a is chosen by out-of-fold log-loss.

    Args:
        shrinkage: a in (0, 1]; None lets `tune` (or the first `fit`) choose it from `SHRINKAGES`.
    """

    kind: ClassVar[str] = "lda"

    def __init__(self, shrinkage: float | None = None):
        super().__init__()
        self.shrinkage = shrinkage

    def tune(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        folds: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """See `Head.tune`. A shrinkage is judged at its own best temperature, as a linear head's strength is."""
        check_rows(X, y, weight, n_leaves, unlabelled=True)
        goes_with = np.where(folds >= 0, folds, -1 - folds)
        inside = {
            fold: _sums(X, y, weight, np.flatnonzero((goes_with == fold) & (y >= 0)), n_leaves)
            for fold in np.unique(goes_with).tolist()
        }
        parts = [(held_out, int(folds[held_out[0]])) for _, held_out in splits(y, folds)]
        models = {
            fold: _Discriminant(_added(sums for other, sums in inside.items() if other != fold))
            for _, fold in parts
        }
        judges = drawn(np.flatnonzero(rows_that_judge(y, folds)), seed)
        truth, w = y[judges], None if weight is None else weight[judges]

        def judged(shrinkage: float) -> NDArray[np.float32]:
            P = np.empty((len(judges), n_leaves), np.float32)
            for _, fold in parts:
                at = folds[judges] == fold
                P[at] = models[fold].probabilities(X[judges[at]], shrinkage)
            return P

        def loss_at(shrinkage: float) -> float:
            P = judged(shrinkage)
            return log_loss(apply_temperature(P, fit_temperature(P, truth, w)), truth, w)

        if self.shrinkage is None:
            self.shrinkage = min(SHRINKAGES, key=loss_at)
        self.temperature = fit_temperature(judged(self.shrinkage), truth, w)
        P = unjudged_probabilities(len(y), n_leaves)
        for held_out, fold in parts:
            fill(P, held_out, X, partial(models[fold].probabilities, shrinkage=self.shrinkage))
        return temper(P, self.temperature)

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        """See `Head.fit`."""
        check_rows(X, y, weight, n_leaves)
        if self.shrinkage is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.shrinkage = USUAL_SHRINKAGE
        model = _Discriminant(_sums(X, y, weight, np.arange(len(y)), n_leaves))
        self.weights, self.seen = model.weights(self.shrinkage or USUAL_SHRINKAGE), model.seen
        self.n_leaves = n_leaves
        return self

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {"kind": self.kind, "shrinkage": self.shrinkage or 0.0, "temperature": self.temperature}

    def save(self, folder: Path) -> None:
        """See `Head.save`."""
        arrays: dict[str, NDArray[Any]] = {"weights": self.weights, "seen": self.seen}
        write_head(folder, {**self.settings(), "n_leaves": self.n_leaves}, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(settings["shrinkage"])
        head.temperature, head.n_leaves = settings["temperature"], settings["n_leaves"]
        head.weights, head.seen = arrays["weights"], arrays["seen"]
        return head


@dataclass(frozen=True, eq=False)
class _Sums:
    """All that is needed of some rows: the weight of each leaf [leaves], its sums [leaves, d], and squares [d, d]."""

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]


def _sums(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    weight: NDArray[np.floating] | None,
    rows: NDArray[np.intp],
    n_leaves: int,
) -> _Sums:
    from scipy.sparse import csr_array

    d = X.shape[1]
    found = _Sums(np.zeros(n_leaves), np.zeros((n_leaves, d)), np.zeros((d, d)))
    for block in blocks(rows):
        x, leaf = X[block], y[block]
        w = np.ones(len(block), np.float32) if weight is None else weight[block].astype(np.float32)
        found.counts[:] += np.bincount(leaf, w, n_leaves)
        found.sums[:] += csr_array((w, (leaf, np.arange(len(block)))), (n_leaves, len(block))) @ x
        found.squares[:] += (x * w[:, None]).T @ x
    return found


def _added(several: Iterable[_Sums]) -> _Sums:
    listed = list(several)
    return _Sums(
        np.sum([one.counts for one in listed], axis=0),
        np.sum([one.sums for one in listed], axis=0),
        np.sum([one.squares for one in listed], axis=0),
    )


class _Discriminant:
    """The eigenvectors of the covariance within labels: each shrinkage is then a division by other eigenvalues."""

    def __init__(self, sums: _Sums) -> None:
        self._sums = sums
        self.seen = np.flatnonzero(sums.counts > 0).astype(np.int64)
        self._counts = sums.counts[self.seen]
        self._means = sums.sums[self.seen] / self._counts[:, None]

    @cached_property
    def _within(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        total, d = self._counts.sum(), self._means.shape[1]
        scatter = self._sums.squares - (self._means * self._counts[:, None]).T @ self._means
        values, vectors = np.linalg.eigh(scatter / total)
        least = LEAST_VARIANCE * np.trace(self._sums.squares) / (total * d)
        # the mean over the labels costs each of them a degree of freedom
        values = np.maximum(values, 0) * (total / max(1.0, total - len(self.seen)))
        return values + max(0.0, least - float(values.mean())), vectors

    def weights(self, shrinkage: float) -> NDArray[np.float32]:
        """float32 [d + 1, seen]; the last row is the bias."""
        values, vectors = self._within
        shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
        slopes = (vectors / shrunk) @ (vectors.T @ self._means.T)
        shares = np.log(self._counts / self._counts.sum())
        bias = shares - np.einsum("ij,ji->i", self._means, slopes) / 2
        return np.vstack([slopes, bias]).astype(np.float32)

    def probabilities(self, X: NDArray[np.float32], shrinkage: float) -> NDArray[np.float32]:
        """float32 [n, leaves]."""
        weights = self.weights(shrinkage)
        return spread(softmax(X @ weights[:-1] + weights[-1]), self.seen, len(self._sums.counts))
