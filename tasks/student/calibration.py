"""Whether a stated probability means what it says: temperature, calibration error, log-loss.

Knows probabilities and labels only; on whose labels to calibrate is the caller's decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-7
"""Probabilities are not taken below this in a log-loss: a label the training folds never saw costs 16 nats
instead of infinity, the same for every candidate."""

ROWS_AT_ONCE = 32_768
"""In double precision no more than these are held."""

TEMPERATURES = (0.05, 20.0)
"""The fitted temperature stays inside; at either end the probabilities are useless in any case."""


def log_loss(
    P: NDArray[np.floating], y: NDArray[np.integer], weight: NDArray[np.floating] | None = None
) -> float:
    """Mean negative log-probability of the given labels, in nats.

    Args:
        P: [n, leaves].
        y: leaf indices [n].
        weight: non-negative [n]; None weighs all rows alike.
    """
    return log_loss_of(P[np.arange(len(y)), y], weight)


def log_loss_of(given: NDArray[np.floating], weight: NDArray[np.floating] | None = None) -> float:
    """The same by the probabilities [n] of the given labels alone."""
    return float(np.average(-np.log(np.maximum(given, FLOOR)), weights=weight))


def fit_temperature(
    P: NDArray[np.floating], y: NDArray[np.integer], weight: NDArray[np.floating] | None = None
) -> float:
    """The temperature T for which softmax(log P / T) has the least log-loss against y.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The loss is convex in 1/T, so its derivative
    is bisected. Rows whose label has probability 0 tell nothing (no temperature changes them) and are left out.

    Args:
        P: [n, leaves], rows summing to 1.
        y: leaf indices [n].
        weight: non-negative [n].

    Returns:
        T within `TEMPERATURES`; 1.0 where no row tells anything.
    """
    informative = P[np.arange(len(y)), y] > 0
    if not informative.any():
        return 1.0
    with np.errstate(divide="ignore"):
        logs = np.log(P[informative].astype(np.float64))
    target, w = y[informative], None if weight is None else weight[informative]
    rows, finite = np.arange(len(target)), np.where(np.isfinite(logs), logs, 0.0)

    def slope(beta: float) -> float:
        scaled = np.exp(beta * (logs - logs.max(axis=1, keepdims=True)))
        expected = (scaled * finite).sum(axis=1) / scaled.sum(axis=1)
        return float(np.average(expected - finite[rows, target], weights=w))

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) > 0:
        return TEMPERATURES[1]
    if slope(high) < 0:
        return TEMPERATURES[0]
    for _ in range(40):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def apply_temperature(P: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """softmax(log P / T), row by row: probabilities of 0 stay 0 and the order within a row never changes."""
    found = np.empty(P.shape, np.float32)
    for start in range(0, len(P), ROWS_AT_ONCE):
        with np.errstate(divide="ignore"):
            logs = np.log(P[start : start + ROWS_AT_ONCE].astype(np.float64)) / temperature
        scaled = np.exp(logs - logs.max(axis=1, keepdims=True))
        found[start : start + ROWS_AT_ONCE] = scaled / scaled.sum(axis=1, keepdims=True)
    return found


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of equal mass, the least confident bin first; arrays of shape [bins]."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    items: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between the two, each bin by its items. In [0, 1]."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.items))


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15) -> Reliability:
    """Sort by confidence, cut into bins of equally many items, compare mean confidence with accuracy.

    Equal mass instead of equal width as argued by Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    workshops 2019; 15 bins as in Guo et al. 2017.

    Args:
        confidence: stated probabilities [n] in [0, 1].
        correct: [n].
        bins: at most this many; fewer where there are fewer items.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order))))
    return Reliability(
        np.array([confidence[p].mean(dtype=np.float64) if len(p) else 0.0 for p in parts]),
        np.array([correct[p].mean() if len(p) else 0.0 for p in parts]),
        np.array([max(1, len(p)) for p in parts]),
    )


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15
) -> float:
    """The `Reliability.error` of the confidences, in [0, 1]."""
    return reliability(confidence, correct, bins).error
