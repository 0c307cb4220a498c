"""Where a sequence of tests had best start, and how many judged rows it takes: from rates that are expected.

Knows coverages, error rates and sizes, which are fixed before any judgement of the sample is looked at; that is why
the choice costs no allowance. A start that is badly chosen certifies less, never wrongly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.student.intervals import errors_allowed, share_of_outcomes_up_to

PROMISES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""The target errors that a start is chosen for."""

EVERY = 4
"""One point in so many may be a start: neighbours hardly differ, and each costs time."""

LIKELY = 0.8
"""The number of rows that is named should do with this probability."""

MOST_ROWS = 100_000
"""Nobody judges more."""

PRECISION = 1.1
"""A number of rows may be too high by this factor; the rates are not known any better."""


def chances(
    coverages: NDArray[np.float64],
    error_rates: NDArray[np.float64],
    items: int,
    target_error: float,
    allowance: float,
) -> NDArray[np.float64]:
    """The probability of each operating point to pass its exact binomial test on a sample of so many items.

    Args:
        coverages: float64 [m], share of the sample each accepts.
        error_rates: float64 [m], expected among the accepted.
        items: size of the sample.
        target_error: to be proved.
        allowance: error probability of the test.

    Returns:
        float64 [m], in [0, 1].
    """
    accepted = np.round(items * coverages)
    return share_of_outcomes_up_to(errors_allowed(accepted, target_error, allowance), accepted, error_rates)


def likeliest(
    coverages: NDArray[np.float64], error_rates: NDArray[np.float64], items: int, allowance: float
) -> int:
    """The operating point where most promises are likely to be proved on a sample of so many items.

    The chances for several promises are added up: where the lax ones are safe, the strict ones decide. The promise that
    is in fact tested does not enter, so that a laxer one never ends at a stricter threshold. The allowance does: what
    enough rows for a confidence of .90 accept is too little for .95.
    """
    places = np.arange(0, len(coverages), EVERY)
    together = np.zeros(len(places))
    for target in PROMISES:
        together += chances(coverages[places], error_rates[places], items, target, allowance)
    return int(places[together.argmax()])


def rows_needed(
    start_of: Callable[[int], NDArray[np.int64]],
    coverages: NDArray[np.float64],
    error_rates: NDArray[np.float64],
    items: int,
    target_error: float,
    allowance: float,
) -> int | None:
    """From how many items on, more than `items`, one of the starts passes with probability `LIKELY`.

    Args:
        start_of: the starts for a size.
        coverages: see `chances`.
        error_rates: see `chances`; what is now known of them, which the starts need not be chosen by.
        items: what there is.
        target_error: to be proved.
        allowance: error probability of one start.

    Returns:
        A number up to `MOST_ROWS`, at most a tenth too high; None where even that many would not do.
    """
    if not (error_rates < target_error).any():
        return None

    def do(size: int) -> bool:
        starts = start_of(size)
        found = chances(coverages[starts], error_rates[starts], size, target_error, allowance)
        return bool(found.max() >= LIKELY)

    low, high = items, 2 * items + 1
    while not do(high):
        low, high = high, 2 * high
        if high > MOST_ROWS:
            return None
    while high > PRECISION * low and high > low + 1:
        middle = (low + high) // 2
        low, high = (low, middle) if do(middle) else (middle, high)
    return high
