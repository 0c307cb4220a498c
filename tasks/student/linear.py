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

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The grid of C, the inverse regularisation, in scikit-learn's meaning; walked from a start while the loss falls."""

USUAL_STRENGTH = 3.0
"""Where the walk starts when nothing better is known."""

SEARCH_ALL_BELOW = 3000
TOLERANCE = 1e-4
MAX_ITERATIONS = 300


class LinearHead:
    """The weights that minimise C x (sum of log-losses) + half the squared weights (the bias goes free).

    Args:
        strength: C; None lets `tune` (or the first `fit`) choose it from `STRENGTHS`.
        near: where the choice starts to look, such as what was chosen for nearly the same rows.
    """

    kind: ClassVar[str] = "linear"

    def __init__(self, strength: float | None = None, near: float | None = None):
        self.strength, self.near = strength, near
        self.temperature = 1.0
        self.weights = np.zeros((0, 0), np.float32)  # [d + 1, seen]; the last row is the bias
        self.seen = np.zeros(0, np.int64)
        self.n_leaves = 0

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
        parts = splits(y, folds)
        starts: dict[int, NDArray[np.float32]] = {}
        searched = parts if len(y) < SEARCH_ALL_BELOW else parts[:2]
        rows = np.concatenate([held_out[y[held_out] != UNLABELLED] for _, held_out in searched])

        def loss_at(place: int) -> float:
            judged = self._judge(X, y, weight, n_leaves, STRENGTHS[place], searched, starts)
            return _loss_at_best_temperature(judged[rows], y[rows], None if weight is None else weight[rows])

        if self.strength is None:
            self.strength = STRENGTHS[_walk(loss_at, _place_of(self.near or USUAL_STRENGTH))]
        P = self._judge(X, y, weight, n_leaves, self.strength, parts, starts)
        labelled = rows_that_judge(y, folds)
        self.temperature = fit_temperature(
            P[labelled], y[labelled], None if weight is None else weight[labelled]
        )
        return apply_temperature(P, self.temperature)

    @staticmethod
    def _judge(
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        n_leaves: int,
        strength: float,
        parts: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
        starts: dict[int, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        def one_fold(fold: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
            train, held_out = parts[fold]
            seen, dense = seen_leaves(y[train])
            w = None if weight is None else weight[train]
            weights = _minimise(X[train], dense, w, len(seen), strength, starts.get(fold))
            return held_out, spread(_probabilities(X[held_out], weights), seen, n_leaves), weights

        P = unjudged_probabilities(len(y), n_leaves)
        # Folds side by side with one BLAS thread each: two threads in one small product mostly wait for each
        # other, and on a busy machine they cost several times what they save.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
            for fold, (held_out, judged, weights) in enumerate(pool.map(one_fold, range(len(parts)))):
                P[held_out], starts[fold] = judged, weights
        return P

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
        self.n_leaves = n_leaves
        with threadpool_limits(1, "blas"):
            self.weights = _minimise(X, dense, weight, len(self.seen), self.strength or 1.0, None)
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


def _loss_at_best_temperature(
    P: NDArray[np.float32], y: NDArray[np.integer], weight: NDArray[np.floating] | None
) -> float:
    return log_loss(apply_temperature(P, fit_temperature(P, y, weight)), y, weight)


def _probabilities(X: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.floating]:
    return softmax(X.astype(np.float32, copy=False) @ weights[:-1] + weights[-1])


def _minimise(
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    weight: NDArray[np.floating] | None,
    n_seen: int,
    strength: float,
    start: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Limited-memory BFGS over float32 products; the loss is divided by the total weight, which moves no minimum."""
    from scipy.optimize import minimize

    rows, X = np.arange(len(y)), np.ascontiguousarray(X, np.float32)
    w = np.ones(len(y), np.float32) if weight is None else weight.astype(np.float32)
    total = float(w.sum(dtype=np.float64))
    w = w / np.float32(total)
    shape = (X.shape[1] + 1, n_seen)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        W = flat.reshape(shape).astype(np.float32)
        P = softmax(X @ W[:-1] + W[-1])
        loss = -float(w @ np.log(np.maximum(P[rows, y], np.float32(1e-30))))
        P[rows, y] -= 1
        P *= w[:, None]
        gradient = np.empty(shape, np.float64)
        gradient[:-1] = X.T @ P + W[:-1] / np.float32(strength * total)
        gradient[-1] = P.sum(axis=0)
        penalty = float(np.square(W[:-1], dtype=np.float64).sum()) / (2 * strength * total)
        return loss + penalty, gradient.ravel()

    first = np.zeros(shape) if start is None else start.astype(np.float64)
    found = minimize(
        objective,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE / max(1, n_seen), "ftol": 1e-6, "maxcor": 10},
    )
    return found.x.reshape(shape).astype(np.float32)
