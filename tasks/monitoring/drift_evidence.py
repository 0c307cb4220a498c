"""Has a share, or a whole distribution, moved since a day that nobody knows? Tests for who looks whenever he likes.

Counts by day in, verdicts out; nothing of students, policies or remedies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.monitoring.sequential import log_evidence

LEAST_ITEMS = 30
"""Fewer on either side say nothing."""


@dataclass(frozen=True)
class Verdict:
    """What the counts since one day say.

    Attributes:
        since: that day's place: the likeliest one where it alarms, else the first.
        value: the share, or the largest difference of two cumulative shares, since then.
        limit: above which it alarms; of a share the limit that its evidence is held against.
        items: counted since then.
        alarm: whether it moved.
        cut: of a distribution, after which bin the difference is largest.
    """

    since: int
    value: float
    limit: float
    items: int
    alarm: bool
    cut: int = 0


def start_shares(days: int, before: int = 0) -> NDArray[np.float64]:
    """How the allowance for false alarms is spent over the days a change may have begun on; sums to at most 1.

    Args:
        days: how many there are to look at.
        before: how many came before those.
    """
    place = np.arange(before, before + days, dtype=np.float64)
    return 1 / ((place + 1) * (place + 2))


def rate_above(
    hits: NDArray[np.int64], trials: NDArray[np.int64], limit: float, allowance: float, before: int = 0
) -> Verdict:
    """Whether a rate is above the limit since any of the days.

    The e-values of all those beginnings, each against "at most the limit since then", weighted by `start_shares`: again
    an e-process, so the chance that it ever alarms while the rate keeps the limit is at most the allowance, however
    often one looks (Ville; Shin, Ramdas & Rinaldo, "E-detectors", 2023, for the mixture over beginnings).

    Args:
        hits: int [days], at least one day.
        trials: int [days].
        limit: in (0, 1).
        allowance: in (0, 1).
        before: days before the first, whose share of the allowance is spent.
    """
    found, tried = since_each_day(hits).astype(np.float64), since_each_day(trials).astype(np.float64)
    weighted = np.log(start_shares(len(hits), before)) + log_evidence(found, tried - found, limit)
    alarm = bool(np.logaddexp.reduce(weighted) >= -np.log(allowance) and tried[0] >= LEAST_ITEMS)
    since = int(weighted.argmax()) if alarm else 0
    return Verdict(since, float(found[since] / max(1.0, tried[since])), limit, int(tried[since]), alarm)


def distribution_moved(
    reference: NDArray[np.int64], counts: NDArray[np.int64], tolerance: float, allowance: float
) -> Verdict:
    """Whether items are spread over ordered bins otherwise than a sample of them was, since any of the days.

    The largest difference of cumulative shares (Kolmogorov-Smirnov on the bins' edges) must exceed the tolerance by
    what both sides may be off: the sample at one time (Massart, Ann. Probab. 18, 1990), the items at all times at once
    (`margin_at_all_times`). Half of the allowance each, the items' half spent over the days by `start_shares`.

    Args:
        reference: int [bins], of the sample.
        counts: int [days, bins], at least one day.
        tolerance: a difference so large is no change, in [0, 1).
        allowance: in (0, 1).
    """
    sample, since_then = int(reference.sum()), since_each_day(counts)
    items = since_then.sum(axis=1)
    known = since_then.cumsum(axis=1) / np.maximum(items, 1)[:, None] - reference.cumsum() / max(sample, 1)
    distance = np.abs(known).max(axis=1)
    margin = np.sqrt(np.log(4 / allowance) / (2 * max(sample, 1))) + margin_at_all_times(
        items, allowance / 2 * start_shares(len(counts))
    )
    excess = np.where(items >= LEAST_ITEMS, distance - margin, -1.0)
    alarm = bool(excess.max() > tolerance) and sample >= LEAST_ITEMS
    since = int(excess.argmax()) if alarm else 0
    return Verdict(
        since,
        float(distance[since]),
        float(min(1.0, tolerance + margin[since])),
        int(items[since]),
        alarm,
        int(np.abs(known[since]).argmax()),
    )


def margin_at_all_times(
    items: NDArray[np.int64], allowance: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """By how much an empirical distribution function is ever off from the true one, but for the allowance.

    0.85 sqrt((log log(e n) + 0.8 log(1612 / allowance)) / n), for all n at once: Howard & Ramdas, "Sequential
    estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28 (2022).
    """
    n = np.maximum(items, 1).astype(np.float64)
    spent = np.log(np.log(np.e * n)) + 0.8 * np.log(1612 / np.asarray(allowance))
    return np.asarray(0.85 * np.sqrt(spent / n), np.float64)


def since_each_day(by_day: NDArray[np.int64]) -> NDArray[np.int64]:
    """What was counted from each day on."""
    return np.asarray(by_day[::-1].cumsum(axis=0)[::-1], np.int64)
