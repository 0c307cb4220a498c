"""Has the mix of categories changed since a day that nobody knows? A test for who looks whenever he likes.

Counts by day in, a verdict out; in which order the categories stand makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.monitoring.drift_evidence import LEAST_ITEMS, since_each_day, start_shares
from tasks.monitoring.sequential import log_evidence


@dataclass(frozen=True, eq=False)
class MixVerdict:
    """What the counts since one day say.

    Attributes:
        since: that day's place: the likeliest one where it alarms, else the first.
        group: bool [categories], those whose share has risen: the likeliest where it alarms, else all that rose.
        share: theirs since then.
        before: theirs in the sample.
        limit: that the evidence is held against.
        items: counted since then.
        alarm: whether the mix changed.
    """

    since: int
    group: NDArray[np.bool_]
    share: float
    before: float
    limit: float
    items: int
    alarm: bool


def mix_moved(
    sample: NDArray[np.int64],
    counts: NDArray[np.int64],
    groups: NDArray[np.bool_],
    tolerance: float,
    allowance: float,
) -> MixVerdict:
    """Whether the share of any group of categories is above its share in the sample by more than the tolerance.

    A group is any set of categories; those named beforehand have half of every allowance among them, all sets there
    are the other half, by which many small changes are found, too. Of each, the sample's share is bounded from above
    (Clopper & Pearson 1934, half of the allowance), and the e-values against "at most that and the tolerance, since
    then" are mixed over groups and beginnings (as in `drift_evidence.rate_above`). The mixture over all sets is at
    least what the set of those that rose adds to it, so that one alone is reckoned with.

    Args:
        sample: int [categories].
        counts: int [days, categories], at least one day.
        groups: bool [groups, categories], at least one; the share of each may rise or fall.
        tolerance: a difference so large is no change, in [0, 1).
        allowance: in (0, 1).
    """
    seen, since_then = int(sample.sum()), since_each_day(counts)
    items = since_then.sum(axis=1)
    rose = since_then * max(seen, 1) > sample * np.maximum(items, 1)[:, None]
    named = np.concatenate([groups, ~groups])
    of_named = 0.5 / len(named)
    of_any = float(np.ldexp(0.5, -len(sample)))
    limits = _highest(named @ sample, seen, allowance / 2 * of_named) + tolerance
    any_limits = _highest(rose @ sample, seen, allowance / 2 * of_any) + tolerance
    evidence = [
        np.log(of_named) + _against(since_then @ group, items, float(limit))
        for group, limit in zip(named, limits, strict=True)
    ]
    of_rose = [
        _against(row[up].sum()[None], row.sum()[None], float(limit))[0]
        for row, up, limit in zip(since_then, rose, any_limits, strict=True)
    ]
    with np.errstate(divide="ignore"):
        evidence.append(np.log(of_any) + np.array(of_rose))
    weighted = np.log(start_shares(len(counts)))[:, None] + np.column_stack(evidence)
    alarm = bool(
        np.logaddexp.reduce(weighted, axis=None) >= -np.log(allowance / 2)
        and min(seen, items[0]) >= LEAST_ITEMS
    )
    since, place = divmod(int(weighted.argmax()), weighted.shape[1]) if alarm else (0, len(named))
    group = rose[since] if place == len(named) else named[place]
    return MixVerdict(
        since,
        group,
        float(since_then[since] @ group / max(1, items[since])),
        float(sample @ group / max(1, seen)),
        float(any_limits[since] if place == len(named) else limits[place]),
        int(items[since]),
        alarm,
    )


def _highest(hits: NDArray[np.int64], items: int, allowance: float) -> NDArray[np.float64]:
    """`clopper_pearson_upper` where the allowance is far below what is lost in subtracting it from 1."""
    from scipy.special import betainccinv

    known = (hits < items) & (allowance > 0)
    bound = betainccinv(np.where(known, hits + 1, 1), np.where(known, items - hits, 1), allowance or 0.5)
    return np.where(known, bound, 1.0)


def _against(hits: NDArray[np.int64], items: NDArray[np.int64], limit: float) -> NDArray[np.float64]:
    if limit >= 1:
        return np.full(len(items), -np.inf)
    return log_evidence(hits.astype(np.float64), (items - hits).astype(np.float64), limit)
