"""Evidence that may be looked at every night: tests and intervals for a share that stay valid under peeking.

Counts in the order they came, nothing of traffic or students.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def evidence_above(wrong: NDArray[np.bool_], limit: float) -> NDArray[np.float64]:
    """After each trial, the log of an e-value against "the rate is at most `limit`".

    A mixture of likelihood ratios over all rates above the limit, uniformly (Robbins, Ann. Math. Statist. 41, 1970).
    By Ville's inequality the chance that it ever reaches log(1 / alpha) while the rate is at most the limit is at
    most alpha, however often one looks.

    Args:
        wrong: [n], in the order of arrival.
        limit: in (0, 1).

    Returns:
        float64 [n].
    """
    errors = np.cumsum(wrong, dtype=np.float64)
    return log_evidence(errors, np.arange(1, len(wrong) + 1) - errors, limit)


def log_evidence(
    errors: NDArray[np.float64], rights: NDArray[np.float64], limit: float
) -> NDArray[np.float64]:
    """What `evidence_above` says after so many errors and rights, whatever their order; float64 of their shape."""
    from scipy.special import betaincc, betaln

    with np.errstate(divide="ignore"):
        mixed = betaln(errors + 1, rights + 1) + np.log(betaincc(errors + 1, rights + 1, limit))
    return np.asarray(
        mixed - np.log1p(-limit) - errors * np.log(limit) - rights * np.log1p(-limit), np.float64
    )


def confidence_sequence(hits: NDArray[np.bool_], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for a share that holds at all times at once with probability `confidence`; its latest value.

    The rates that a uniform (beta-binomial) mixture has not refuted: Robbins 1970; Howard et al., "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", Ann. Statist. 49 (2021).

    Args:
        hits: [n], in the order of arrival.
        confidence: in (0, 1).

    Returns:
        (low, high) in [0, 1]; (0, 1) where there are none.
    """
    from scipy.special import betaln, xlogy

    trials, found = len(hits), int(np.sum(hits))
    if trials == 0:
        return 0.0, 1.0
    refuted = betaln(found + 1, trials - found + 1) + np.log(1 - confidence)

    def kept(rate: float) -> bool:
        return bool(xlogy(found, rate) + xlogy(trials - found, 1 - rate) >= refuted)

    centre = found / trials
    return _edge(kept, centre, 0.0), _edge(kept, centre, 1.0)


def _edge(kept: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where, on the way from inside to outside, a rate is no longer kept."""
    if kept(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return outside
