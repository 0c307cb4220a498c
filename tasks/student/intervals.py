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


def errors_allowed(trials: ArrayLike, limit: float, allowance: float) -> NDArray[np.float64]:
    """The most errors at which `clopper_pearson_upper` is still at most `limit`; -1 where even none are too many.

    Args:
        trials: counts.
        limit: the rate to be proved, in (0, 1).
        allowance: one-sided error probability of the proof, in (0, 1).

    Returns:
        Whole numbers of the shape of `trials`.
    """
    from scipy.special import bdtrik

    n = np.asarray(trials, np.float64)
    most = np.floor(np.nan_to_num(bdtrik(allowance, np.maximum(n, 1), limit), nan=-1.0))
    # the inverse is rounded: it can be wrong by one, in either direction
    candidates = np.clip(np.stack([most - 1, most, most + 1]), -1, n)
    proves = share_of_outcomes_up_to(candidates, n, limit) <= allowance
    return np.where(proves & (candidates < n), candidates, -1.0).max(axis=0)


def share_of_outcomes_up_to(errors: ArrayLike, trials: ArrayLike, rate: ArrayLike) -> NDArray[np.float64]:
    """P(Binomial(trials, rate) <= errors): 0 below no errors, 1 from as many as there are trials on."""
    from scipy.special import betaincc

    k, n, p = np.broadcast_arrays(
        np.asarray(errors, np.float64), np.asarray(trials, np.float64), np.asarray(rate, np.float64)
    )
    inside = (k >= 0) & (k < n)
    found = betaincc(np.where(inside, k + 1, 1.0), np.where(inside, n - k, 1.0), p)
    return np.where(inside, found, np.where(k < 0, 0.0, 1.0))
