"""How accuracy grows with rows: one linear head, taught by a quarter, a half and all of them, judged by the same rows.

Knows vectors, labels and folds; what the curve says about a project's limits is `limits`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.student.crossfit import splits
from tasks.student.linear import USUAL_STRENGTH, LinearHead
from tasks.student.neighbours import votes

SHARES = (0.25, 0.5, 1.0)
FOLDS = 2
"""So many of the folds judge many rows; of few rows all do, or chance would bend the curve."""

MOST_WORK = 1e9
"""Rows x dimensions x labels that one fit may pass over (20,000 rows of 384 dimensions and 128 labels): under a minute
for the whole curve on one core. Of more rows an even share is taken, and `Curve.rows` says how many there are."""

FEWEST_ROWS, MOST_ROWS, MOST_JUDGES = 40, 20_000, 5_000
STILL_FALLING = 0.07
"""Learning curves fall as a power of the rows until they near their end, with exponents from 0.1 up (Hestness et al.,
arXiv:1712.00409): by 7 % of the error or more a doubling. The demo at 700 rows and BANKING77 at 1,500 fell on where
three points had promised an end."""

STEEPEST = 0.85
"""What a doubling brings, as a share of what the one before it brought, is taken for at most this: three points with
their noise would else say that it never ends."""


@dataclass(frozen=True)
class CurvePoint:
    """One share of the rows: how many rows taught, and accuracy in [0, 1] on them and on rows held out."""

    rows: int
    taught: float
    held_out: float


@dataclass(frozen=True)
class Curve:
    """The learning curve of a linear head.

    Attributes:
        points: from the fewest rows to the most.
        neighbours: accuracy of a vote of the nearest rows on the same held-out rows, all of the rows voting: what
            a head of any shape could find in the same vectors.
        judged: held-out rows that every point was judged by.
        rows: rows that there are to learn from; more than the last point's where the curve took a share of them.
    """

    points: tuple[CurvePoint, ...]
    neighbours: float
    judged: int
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be kept."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{**values, "points": tuple(CurvePoint(**point) for point in values["points"])})

    @property
    def gap(self) -> float:
        """Accuracy on the rows that taught less that on rows held out, with the most rows; at least 0."""
        return max(0.0, self.points[-1].taught - self.points[-1].held_out)

    @property
    def slowing(self) -> float:
        """What a doubling brings as a share of what the doubling before it brought, in [0, `STEEPEST`]."""
        first, second, last = (point.held_out for point in self.points[-3:])
        if last <= second:
            return 0.0
        return min(STEEPEST, (last - second) / (second - first)) if second > first else STEEPEST

    @property
    def doubling(self) -> float:
        """Accuracy that twice the rows would add, in [0, 1]: the gain of the last doubling, slowed once more.

        Where the curve took a share of the rows, the doublings up to all of them slow it, too. Accuracy that falls
        as a power of the rows slows by a constant factor a doubling (Hestness et al., arXiv:1712.00409).
        """
        gained = max(0.0, self.points[-1].held_out - self.points[-2].held_out)
        beyond = max(0.0, math.log2(self.rows / self.points[-1].rows)) if self.points[-1].rows else 0.0
        return float(gained * self.slowing ** (1 + beyond))

    @property
    def endless(self) -> float:
        """Accuracy that rows without end would add, in [0, 1]: all doublings to come, at most the gap.

        Each row that is learned rather than remembered lets the two curves approach; where they meet, more rows
        add nothing. While a doubling still takes `STILL_FALLING` of the error away, no end is in sight: the gap it is.
        """
        if self.doubling >= STILL_FALLING * (1 - self.points[-1].held_out):
            return self.gap
        return float(min(self.gap, self.doubling / (1 - self.slowing)))


def learning_curve(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    judged_by: NDArray[np.integer],
    folds: NDArray[np.integer],
    weight: NDArray[np.floating] | None = None,
    *,
    n_leaves: int,
    strength: float | None = None,
    most_work: float = MOST_WORK,
    seed: int = 0,
) -> Curve | None:
    """Fit linear heads of one fixed regularisation on growing shares of the rows; judge all by the same held-out rows.

    The shares are nested, so that the curve tells what rows add rather than which rows were drawn.

    Args:
        X: [n, d].
        y: leaf indices [n] to learn from; -1 where a row teaches nothing.
        judged_by: leaf indices [n] that judge; -1 where a row judges nothing.
        folds: [n], by near-duplicate group; see `crossfit.splits`.
        weight: non-negative [n].
        n_leaves: labels there are.
        strength: the head's C, as it was tuned for all rows.
        most_work: see `MOST_WORK`.
        seed: of the shares.

    Returns:
        The curve; None with too few rows for one, or where nothing held out can judge.
    """
    learned = int((y >= 0).sum())
    most = min(learned, MOST_ROWS, int(most_work / max(1, X.shape[1] * n_leaves)))
    if most < FEWEST_ROWS or len(np.unique(folds[folds >= 0])) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(len(y))
    found: list[list[CurvePoint]] = []
    voted: list[tuple[float, int]] = []
    parts = splits(y, folds)
    cheap = len(parts) * most * X.shape[1] * n_leaves <= FOLDS * most_work / 5
    for train, held_out in parts if cheap else parts[:FOLDS]:
        judges = drawn[np.isin(drawn, held_out) & (judged_by[drawn] >= 0)][:MOST_JUDGES]
        order = drawn[np.isin(drawn, train)][: math.ceil(most * len(train) / learned)]
        if not len(judges) or len(order) < FEWEST_ROWS // 2:
            return None
        points = []
        for share in SHARES:
            taught = order[: math.ceil(share * len(order))]
            head = LinearHead(strength or USUAL_STRENGTH)
            w = None if weight is None else weight[taught]
            head.fit(X[taught], y[taught], w, n_leaves=n_leaves, seed=seed)
            points.append(
                CurvePoint(
                    len(taught),
                    _right(head, X[taught], y[taught]),
                    _right(head, X[judges], judged_by[judges]),
                )
            )
        found.append(points)
        w = None if weight is None else weight[order]
        said = votes(X[judges], X[order], y[order], n_leaves, weight=w).argmax(axis=1)
        voted.append((float((said == judged_by[judges]).mean()), len(judges)))
    judged = [items for _, items in voted]
    means = tuple(_mean(same, judged) for same in zip(*found, strict=True))
    neighbours = float(np.average([share for share, _ in voted], weights=judged))
    return Curve(means, neighbours, sum(judged), learned)


def _right(head: LinearHead, X: NDArray[np.float32], y: NDArray[np.integer]) -> float:
    return float((head.predict_proba(X).argmax(axis=1) == y).mean())


def _mean(points: Sequence[CurvePoint], judged: Sequence[int]) -> CurvePoint:
    return CurvePoint(
        round(float(np.mean([point.rows for point in points]))),
        float(np.average([point.taught for point in points], weights=judged)),
        float(np.average([point.held_out for point in points], weights=judged)),
    )
