"""A mean over many items of which few were judged, with the help of a cheap guess about all of them.

Knows numbers and the probability with which each item came to be judged; what is judged and guessed is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.intervals import Z_95


@dataclass(frozen=True)
class Estimate:
    """A mean with its two-sided 95 % interval, from `judged` of `items`."""

    mean: float
    low: float
    high: float
    judged: int
    items: int


def prediction_powered_mean(
    value: NDArray[np.float64],
    guess: NDArray[np.float64],
    judged: NDArray[np.bool_],
    probability: NDArray[np.float64],
) -> Estimate:
    """The mean of `value` in [0, 1] over all items, unbiased (in the limit) however wrong the guess is.

    Each item contributes f + judged / probability * (value - f), where f is a linear function of the guess, so that f
    only moves weight between judged and unjudged items. The one with the least variance is taken: power tuning in
    Angelopoulos, Duchi & Zrnic, "PPI++: Efficient Prediction-Powered Inference", 2023, section 6, with items judged by
    coins of their own probability as in Zrnic & Candes, "Active Statistical Inference", ICML 2024. Where all were
    judged it is the plain mean, and where the guess tells nothing that of the judged, by weight. The interval is a
    normal one, good from some dozens of judged items on; what a certificate says rests on exact tests instead.

    Args:
        value: [n]; what stands there of items that were not judged is not looked at.
        guess: [n], in [0, 1].
        judged: [n], whether the item's coin came up and it was judged.
        probability: [n], of its coming up, in (0, 1].
    """
    n = len(value)
    if not n:
        return Estimate(float("nan"), 0.0, 1.0, 0, 0)
    weight = judged / probability
    seen = np.where(judged, value, 0.0) * weight
    moved = np.stack([1 - weight, guess * (1 - weight)], axis=1)  # of mean 0
    power, *_ = np.linalg.lstsq(moved - moved.mean(axis=0), seen - seen.mean(), rcond=None)
    parts = seen - moved @ power
    mean, half = float(parts.mean()), Z_95 * float(np.std(parts)) / float(np.sqrt(n))
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Estimate(min(1.0, max(0.0, mean)), low, high, int(judged.sum()), n)
