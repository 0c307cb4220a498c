"""Exact and approximate intervals for a share, the arithmetic under every certificate and comparison.

Knows nothing about students or labels: counts in, bounds out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal: two-sided 95 %."""


def clopper_pearson_upper(errors: ArrayLike, trials: ArrayLike, allowance: ArrayLike) -> NDArray[np.float64]:
    """Upper bound on an error rate that is too low with probability at most `allowance`.

    The (1 - allowance) quantile of Beta(errors + 1, trials - errors): Clopper & Pearson, "The use of confidence
    or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934). The bound is at most `t`
    exactly when the binomial test of "the rate is above t" rejects at level `allowance`.

    Args:
        errors: counts, 0 <= errors <= trials.
        trials: counts; no trials, or an allowance of 0, proves nothing and gives 1.0.
        allowance: one-sided error probability in [0, 1).

    Returns:
        Bounds in [0, 1], of the broadcast shape of the arguments.
    """
    from scipy.special import betaincinv

    k, n, delta = np.broadcast_arrays(
        np.asarray(errors, np.float64), np.asarray(trials, np.float64), np.asarray(allowance, np.float64)
    )
    known = (n > k) & (delta > 0)
    bound = betaincinv(
        np.where(known, k + 1, 1.0), np.where(known, n - k, 1.0), 1 - np.where(known, delta, 0.5)
    )
    return np.where(known, bound, 1.0)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval for a share, each side spending half of 1 - confidence."""
    side = (1 - confidence) / 2
    high = float(clopper_pearson_upper(successes, trials, side))
    low = 1 - float(clopper_pearson_upper(trials - successes, trials, side))
    return low, high


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Two-sided score interval for a share (Wilson, JASA 22, 1927): shorter than the exact one, for display.

    Returns:
        (low, high) in [0, 1]; (0, 1) where there are no trials.
    """
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def trials_needed(error_rate: float, limit: float, allowance: float, at_most: int = 10_000_000) -> int | None:
    """The fewest trials at which an observed `error_rate` would prove that the true rate is at most `limit`.

    Args:
        error_rate: the rate the trials are expected to show, in [0, 1].
        limit: the rate to be proved, in (0, 1).
        allowance: one-sided error probability of the proof, in (0, 1).
        at_most: beyond this the answer is None.

    Returns:
        A count, or None where no number of trials up to `at_most` would do.
    """

    def proves(trials: int) -> bool:
        errors = np.ceil(error_rate * trials)
        return bool(clopper_pearson_upper(errors, trials, allowance) <= limit)

    if error_rate >= limit:
        return None
    high = 1
    while not proves(high):
        high *= 2
        if high > at_most:
            return None
    low = high // 2
    while high - low > 1:  # rounding errors up makes this a sawtooth; a tooth more or less does not matter
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high
