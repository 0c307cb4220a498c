"""What training does differently where rows are many: by the block, and chosen on a sample.

Knows rows and sizes, no head. Up to `SAMPLE_ROWS` nothing here changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.calibration import apply_temperature, fit_temperature

BLOCK_ROWS = 8_192
"""Products take so many rows at once: what they give is then some tens of megabytes, however many rows there are."""

SAMPLE_ROWS = 30_000
"""So many rows, drawn at random where there are more, choose regularisation and temperature: that fixes an accuracy to
a quarter of a point, where more would cost hours."""

MANY_ROWS = 100_000
"""From here on half of the rows train nearly as good a head as four fifths do: folds are judged in two halves, for half
of the work."""

Weight = NDArray[np.floating] | None

Starts = Mapping[int, Mapping[str, NDArray[Any]]]
"""Where training goes on: by the fold that was held out, the weights that were fitted outside it."""

ALL_ROWS = -1
"""In place of a fold: fitted on all rows."""


def blocks(rows: NDArray[np.intp], most: int = BLOCK_ROWS) -> list[NDArray[np.intp]]:
    """The rows in order, so many at a time; one block, even where there are none."""
    return [rows[start : start + most] for start in range(0, max(1, len(rows)), most)]


def drawn(rows: NDArray[np.intp], seed: int, most: int = SAMPLE_ROWS) -> NDArray[np.intp]:
    """At most so many of the rows, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def fewer_folds(folds: NDArray[np.integer]) -> NDArray[np.integer]:
    """The folds as they are, or in two halves where there are `MANY_ROWS`; rows that went together still do."""
    judged = np.unique(folds[folds >= 0])
    if len(folds) < MANY_ROWS or len(judged) < 3:
        return folds
    half = np.zeros(int(max(folds.max(), (-1 - folds).max())) + 1, folds.dtype)
    half[judged[1::2]] = 1
    own = np.where(folds >= 0, folds, -1 - folds)
    return np.where(folds >= 0, half[own], -1 - half[own]).astype(folds.dtype)


def temperature_of(
    P: NDArray[np.float32], y: NDArray[np.integer], weight: Weight, rows: NDArray[np.intp], seed: int
) -> float:
    """The temperature that fits those rows best, by at most `SAMPLE_ROWS` of them."""
    judges = drawn(rows, seed)
    return fit_temperature(P[judges], y[judges], None if weight is None else weight[judges])


def fill(
    P: NDArray[np.float32],
    rows: NDArray[np.intp],
    X: NDArray[np.float32],
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    """Afterwards P[rows] is what `predict` says of X[rows]."""
    for block in blocks(rows):
        P[block] = predict(X[block])


def temper(P: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """`apply_temperature` in place."""
    for start in range(0, len(P), BLOCK_ROWS):
        P[start : start + BLOCK_ROWS] = apply_temperature(P[start : start + BLOCK_ROWS], temperature)
    return P
