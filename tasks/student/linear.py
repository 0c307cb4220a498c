"""Multinomial logistic regression on unit-length vectors, its regularisation chosen out of fold.

The plain head every other one has to beat; a prediction is one small matrix product.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.student.calibration import apply_temperature, fit_temperature, log_loss
from tasks.student.crossfit import UNLABELLED, rows_that_judge, splits, unjudged_probabilities
from tasks.student.heads import (
    check_rows,
    read_arrays,
    read_settings,
    seen_leaves,
    softmax,
    spread,
    tune_itself,
    write_head,
)
from tasks.student.logistic import minimise
from tasks.student.many_rows import (
    MANY_ROWS,
    SAMPLE_ROWS,
    Starts,
    drawn,
    fewer_folds,
    fill,
    temper,
    temperature_of,
)

Fitted = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Weights [d + 1, seen] and the leaves seen."""

Found = dict[int, Fitted]
"""By fold, what was fitted outside it."""

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The grid of C, the inverse regularisation, in scikit-learn's meaning; walked from a start while the loss falls."""

USUAL_STRENGTH = 3.0
"""Where the walk starts when nothing better is known."""

SEARCH_ALL_BELOW = 3000


class LinearHead:
    """The weights that minimise C x (sum of log-losses) + half the squared weights (the bias goes free).

    Args:
        strength: C; None lets `tune` (or the first `fit`) choose it from `STRENGTHS`.
        near: where the choice starts to look, such as what was chosen for nearly the same rows.
        starts: where the fits of `tune` start, as another head's `ends` after tuning on nearly the same rows in the
            same folds; only many rows are trained from there.

    After tuning `ends` has the weights by fold that was held out.
    """

    kind: ClassVar[str] = "linear"

    def __init__(
        self, strength: float | None = None, near: float | None = None, starts: Starts | None = None
    ):
        self.strength, self.near = strength, near
        self.starts: Starts = starts or {}
        self.ends: Starts = {}
        self.temperature = 1.0
        self.weights = np.zeros((0, 0), np.float32)  # [d + 1, seen]; the last row is the bias
        self.seen = np.zeros(0, np.int64)
        self.n_leaves = 0
        self._near: Fitted | None = None  # where the fit on all of many rows starts

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
        """See `Head.tune`. The grid is walked up from the start while the loss falls, else down.

        A strength is judged at its own best temperature: otherwise weak regularisation wins for being confident
        rather than for being right. From `SEARCH_ALL_BELOW` rows up two of the folds are enough to choose.
        """
        check_rows(X, y, weight, n_leaves, unlabelled=True)
        folds, many = fewer_folds(folds), len(y) > SAMPLE_ROWS
        found: Found = {}
        if many and set(self.starts) == set(np.unique(folds[folds >= 0]).tolist()):
            found = {fold: (start["weights"], start["seen"]) for fold, start in self.starts.items()}
        if self.strength is None:
            self.strength = self._choose(X, y, folds, weight, n_leaves, seed, found)
        P = _judge(X, y, folds, weight, n_leaves, self.strength, splits(y, folds), found, many)
        self.temperature = temperature_of(P, y, weight, np.flatnonzero(rows_that_judge(y, folds)), seed)
        self.ends = {fold: {"weights": weights, "seen": seen} for fold, (weights, seen) in found.items()}
        self._near = _between(found) if len(y) >= MANY_ROWS else None
        return temper(P, self.temperature)

    def _choose(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        folds: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        n_leaves: int,
        seed: int,
        found: Found,
    ) -> float:
        if many := len(y) > SAMPLE_ROWS:
            rows = drawn(np.flatnonzero(y != UNLABELLED), seed)
            X, y, folds, weight = X[rows], y[rows], folds[rows], None if weight is None else weight[rows]
        parts = splits(y, folds)
        searched = parts if len(y) < SEARCH_ALL_BELOW else parts[:2]
        judges = np.concatenate([held_out[y[held_out] != UNLABELLED] for _, held_out in searched])
        truth, w = y[judges], None if weight is None else weight[judges]

        def loss_at(place: int) -> float:
            P = _judge(X, y, folds, weight, n_leaves, STRENGTHS[place], searched, found, many)[judges]
            return log_loss(apply_temperature(P, fit_temperature(P, truth, w)), truth, w)

        return STRENGTHS[_walk(loss_at, _place_of(self.near or USUAL_STRENGTH))]

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
        if self.strength is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.strength = 1.0
        self.seen, dense = seen_leaves(y)
        self.n_leaves, strength, start = n_leaves, self.strength or 1.0, _start(self._near, self.seen)
        rows, many = np.arange(len(y)), len(y) > SAMPLE_ROWS
        with threadpool_limits(1, "blas"):
            self.weights = minimise(X, rows, dense, weight, len(self.seen), strength, start, many)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.predict_proba`."""
        P = apply_temperature(_probabilities(X, self.weights), self.temperature)
        return spread(P, self.seen, self.n_leaves)

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {"kind": self.kind, "strength": self.strength or 0.0, "temperature": self.temperature}

    def save(self, folder: Path) -> None:
        """See `Head.save`."""
        write_head(
            folder,
            {**self.settings(), "n_leaves": self.n_leaves},
            {"weights": self.weights, "seen": self.seen},
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(settings["strength"])
        head.temperature = settings["temperature"]
        head.n_leaves, head.weights, head.seen = settings["n_leaves"], arrays["weights"], arrays["seen"]
        return head


def _place_of(strength: float) -> int:
    return int(np.argmin([abs(np.log(strength / known)) for known in STRENGTHS]))


def _walk(loss_at: Callable[[int], float], start: int) -> int:
    """The place on the grid with the least loss, found by walking from `start` while the loss falls.

    In C the out-of-fold loss falls and then rises, so the first rise ends the walk; downwards is only tried
    where the first step up did not help.
    """
    best, least = start, loss_at(start)
    for step in (1, -1):
        place = start + step
        while 0 <= place < len(STRENGTHS) and (loss := loss_at(place)) < least:
            best, least, place = place, loss, place + step
        if best != start:
            break
    return best


def _judge(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    folds: NDArray[np.integer],
    weight: NDArray[np.floating] | None,
    n_leaves: int,
    strength: float,
    parts: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
    found: Found,
    many: bool,
) -> NDArray[np.float32]:
    """Each held-out row judged by weights fitted outside its fold, which are kept as the next ones' start."""
    P = unjudged_probabilities(len(y), n_leaves)

    def one_fold(part: tuple[NDArray[np.intp], NDArray[np.intp]]) -> None:
        train, held_out = part
        fold, (seen, dense) = int(folds[held_out[0]]), seen_leaves(y[train])
        w = None if weight is None else weight[train]
        weights = minimise(X, train, dense, w, len(seen), strength, _start(found.get(fold), seen), many)
        found[fold] = weights, seen
        fill(P, held_out, X, lambda x: spread(_probabilities(x, weights), seen, n_leaves))

    # Folds side by side with one BLAS thread each: two threads in one small product mostly wait for each other, and
    # on a busy machine they cost several times what they save. Of many rows each fold fills the machine by itself.
    at_once = 1 if many else min(len(parts), os.cpu_count() or 1)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one_fold, parts))
    return P


def _start(known: Fitted | None, seen: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Weights that were fitted for other rows, put in the order of these rows' leaves."""
    if known is None or np.array_equal(known[1], seen):
        return None if known is None else known[0]
    start = np.zeros((len(known[0]), len(seen)), np.float32)
    _, there, here = np.intersect1d(known[1], seen, assume_unique=True, return_indices=True)
    start[:, here] = known[0][:, there]
    return start


def _between(found: Found) -> Fitted:
    """The mean of what the folds gave: what all rows give is near."""
    seen = np.unique(np.concatenate([leaves for _, leaves in found.values()]))
    starts = [_start(fitted, seen) for fitted in found.values()]
    return np.mean([start for start in starts if start is not None], axis=0, dtype=np.float32), seen


def _probabilities(X: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.floating]:
    return softmax(X.astype(np.float32, copy=False) @ weights[:-1] + weights[-1])
