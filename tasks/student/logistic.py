"""The weights of a multinomial logistic regression: limited-memory BFGS over float32 products.

Knows a matrix, which of its rows to learn from, and one regularisation; never copies the matrix where rows are many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from tasks.student.heads import softmax
from tasks.student.many_rows import Weight, blocks, drawn

TOLERANCE = 1e-4
MAX_ITERATIONS = 300
LEAST_GAIN = 1e-6
"""The search ends where an iteration lowers the loss by less than this, in nats where the loss is below one."""

LEAST_GAIN_OF_MANY = 1e-4
"""The same for many rows: what is left to gain is then below what another sample of rows would change."""

SIDE_BY_SIDE = 16
"""Blocks of many rows computed at once, at most."""

Matrix = NDArray[np.float32]


def minimise(
    X: Matrix,
    rows: NDArray[np.intp],
    y: NDArray[np.int64],
    weight: Weight,
    n_seen: int,
    strength: float,
    start: Matrix | None = None,
    many: bool = False,
) -> Matrix:
    """Minimise strength x (sum of log-losses) + half the squared weights, the bias going free.

    The loss is divided by the total weight, which moves no minimum.

    Args:
        X: float32 [m, d].
        rows: those of X to learn from [n], n at least 1.
        y: their leaves, numbered from 0 to n_seen - 1, [n].
        weight: theirs, non-negative [n].
        n_seen: columns of the result.
        strength: inverse regularisation, as scikit-learn's C.
        start: where to begin [d + 1, n_seen]; zeros where it is None.
        many: scale the vectors' directions to like curvature first, which takes a fifth of the passes over the rows,
            and compute blocks of rows side by side; else hold those rows a second time and stay on one thread.

    Returns:
        float32 [d + 1, n_seen]; the last row is the bias.
    """
    from scipy.optimize import minimize

    w = np.ones(len(rows), np.float32) if weight is None else weight.astype(np.float32)
    total = float(w.sum(dtype=np.float64))
    w = w / np.float32(total)
    shape, pull = (X.shape[1] + 1, n_seen), strength * total
    parts = blocks(np.arange(len(rows))) if many else [np.arange(len(rows))]
    whole = None if many else np.ascontiguousarray(X[rows], np.float32)
    basis = _Coordinates(X, rows, n_seen, pull) if many else None

    def of_block(part: NDArray[np.intp], W: Matrix) -> tuple[float, Matrix]:
        x = X[rows[part]].astype(np.float32, copy=False) if whole is None else whole
        return _loss_and_gradient(x, y[part], w[part], W)

    with ExitStack() as stack:
        side_by_side: Callable[..., Iterable[tuple[float, Matrix]]] = map
        if many:
            workers = min(SIDE_BY_SIDE, os.cpu_count() or 1)
            side_by_side = stack.enter_context(ThreadPoolExecutor(workers)).map

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            free = flat.reshape(shape)
            W = (free if basis is None else basis.weights(free)).astype(np.float32)
            loss, summed = 0.0, np.zeros(0, np.float32)
            for of_part, gradient in side_by_side(lambda part: of_block(part, W), parts):
                loss += of_part
                summed = summed + gradient if summed.size else gradient
            summed[:-1] += W[:-1] / np.float32(pull)
            penalty = float(np.square(W[:-1], dtype=np.float64).sum()) / (2 * pull)
            slope = summed.astype(np.float64)
            return loss + penalty, (slope if basis is None else basis.slope(slope)).ravel()

        first = np.zeros(shape) if start is None else start.astype(np.float64)
        found = minimize(
            objective,
            (first if basis is None else basis.free(first)).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": MAX_ITERATIONS,
                "gtol": TOLERANCE / max(1, n_seen),
                "ftol": LEAST_GAIN_OF_MANY if many else LEAST_GAIN,
                "maxcor": 10,
            },
        )
    weights = found.x.reshape(shape)
    return (weights if basis is None else basis.weights(weights)).astype(np.float32)


def _loss_and_gradient(
    x: Matrix, y: NDArray[np.int64], w: NDArray[np.float32], W: Matrix
) -> tuple[float, Matrix]:
    rows = np.arange(len(y))
    P = softmax(x @ W[:-1] + W[-1])
    loss = -float(w @ np.log(np.maximum(P[rows, y], np.float32(1e-30))))
    P[rows, y] -= 1
    P *= w[:, None]
    gradient = np.empty(W.shape, np.float32)
    gradient[:-1] = x.T @ P
    gradient[-1] = P.sum(axis=0)
    return loss, gradient


class _Coordinates:
    """Coordinates in which the loss curves alike in every direction, as far as the vectors' second moments tell.

    Near even probabilities over k leaves the curvature is S (1 - 1/k) / k + 1 / pull; S comes from a sample of rows.
    """

    def __init__(self, X: Matrix, rows: NDArray[np.intp], n_seen: int, pull: float) -> None:
        x = X[drawn(rows, 0)]
        values, self._vectors = np.linalg.eigh((x.T @ x).astype(np.float64) / len(x))
        spread = max(1, n_seen - 1) / n_seen**2
        self._scale = 1 / np.sqrt(np.maximum(values, 0) * spread + 1 / pull)[:, None]
        self._of_bias = 1 / np.sqrt(spread)

    def weights(self, free: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.vstack([self._vectors @ (free[:-1] * self._scale), free[-1] * self._of_bias])

    def free(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.vstack([(self._vectors.T @ weights[:-1]) / self._scale, weights[-1] / self._of_bias])

    def slope(self, slope: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.vstack([(self._vectors.T @ slope[:-1]) * self._scale, slope[-1] * self._of_bias])
