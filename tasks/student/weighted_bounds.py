"""What a two-stage sample proves: every row of one kind was judged, of the other kind only a random share.

Knows counts and the share, nothing of students, teachers or thresholds. An error among the rows that were judged by
chance stands for several, so the exact binomial bound of an unweighted sample does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.intervals import clopper_pearson_upper

RARE_DRAW_WEIGHT = 1.6
"""How much an error among the drawn rows counts in the order of outcomes, as a multiple of its inverse probability,
where few are drawn; where all are drawn it counts once, and in between in proportion.

Any weight gives a valid test. At 1, the order of the unbiased estimate, the worst case (all errors lie among the rows
of which only a share was looked at) decides and power is lost: at 800 rows, share 0.3, target 5 %, true error 3 % and
confidence 95 % the chance to prove it was .33 at weight 1, .72 at 1.5, .66 at 2, .52 at 3. Beside it (with all rows
judged: .88): betting .50, hedged capital with fixed bets .56 (Waudby-Smith & Ramdas, JRSS B 86, 2024), empirical
Bernstein (Maurer & Pontil, COLT 2009) 0, the allowance split over two exact binomial bounds .11.
"""

SLICES = 64
"""Of the nuisance parameter; more make the bound tighter by less than 1/64 of the error tested."""


@dataclass(frozen=True, eq=False)
class TwoStage:
    """How the rows of a sample came to be judged.

    Attributes:
        all_judged: bool [n], rows of the first kind, each of which is judged.
        drawn: bool [n], rows of the second kind whose coin came up; they are judged too.
        share: probability that a row of the second kind is drawn, in (0, 1].
        bounds: whether `upper` is worked out, which is for display and takes most of the time; without it is 1.
        open: bool [n], rows that nobody has judged yet: they count as wrong where an error is refuted, and not where
            errors are shown. None where all are judged that should be.
    """

    all_judged: NDArray[np.bool_]
    drawn: NDArray[np.bool_]
    share: float
    bounds: bool = True
    open: NDArray[np.bool_] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, to be kept with the sample."""
        return {
            "all_judged": self.all_judged.tolist(),
            "drawn": self.drawn.tolist(),
            "share": self.share,
            "open": None if self.open is None else self.open.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TwoStage:
        """The inverse of `as_dict`."""
        judged, drawn = (np.asarray(values[name], bool) for name in ("all_judged", "drawn"))
        left = values.get("open")
        return cls(
            judged, drawn, float(values["share"]), open=None if left is None else np.asarray(left, bool)
        )

    @property
    def counts(self) -> NDArray[np.bool_]:
        """bool [n]: rows whose judgement counts; one that somebody judged for another reason does not."""
        return self.all_judged | self.drawn

    @property
    def worth(self) -> int:
        """How many rows, all judged, tell as much if all errors lie in the second kind: testing starts as on these."""
        return round(len(self.drawn) * self.share)

    def errors(self, wrong: NDArray[np.bool_]) -> tuple[int, int]:
        """(among the rows of the first kind, among those drawn of the second) of rows that are wrong, bool [n]."""
        return int((wrong & self.all_judged).sum()), int((wrong & self.drawn).sum())

    def weighted(self, wrong: NDArray[np.bool_]) -> float:
        """How many errors were found, by the unbiased estimate: each counts by its inverse probability."""
        judged, drawn = self.errors(wrong if self.open is None else wrong & ~self.open)
        return judged + drawn / self.share

    def p_value(self, wrong: NDArray[np.bool_], accepted: int, error: float) -> float:
        """As `two_stage_p_value`, of the wrong ones among the accepted."""
        return two_stage_p_value(*self.errors(wrong), accepted, self.share, error)

    def upper(self, wrong: NDArray[np.bool_], accepted: int, allowance: float) -> float:
        """As `two_stage_upper`."""
        return two_stage_upper(*self.errors(wrong), accepted, self.share, allowance) if self.bounds else 1.0


def two_stage_p_value(
    judged_wrong: int, drawn_wrong: int, accepted: int, share: float, error: float
) -> float:
    """P-value of "at least `error` of what is accepted is wrong", valid at every sample size.

    Of independent rows, those of the first kind are all judged; each of the second kind is judged with probability
    `share`, by a coin of its own. So (judged_wrong, drawn_wrong, rest) is multinomial with probabilities (p, share *
    q, rest), and the error is p + q. The statistic judged_wrong + weight * drawn_wrong grows with both; its
    exact distribution function is maximised over every (p, q) with p + q = error (the unconditional exact test:
    Barnard, Biometrika 34, 1947; Buehler, JASA 52, 1957). On each slice of q the function is bounded by its value at
    the smallest p and q of the slice, because it falls in both; so the maximum is never missed between two slices.

    Args:
        judged_wrong: errors among the rows of the first kind.
        drawn_wrong: errors among those drawn of the second kind.
        accepted: all rows of both kinds, judged or not.
        share: probability of being drawn, in (0, 1]; at 1 this is the exact binomial test.
        error: the rate to be refuted, in (0, 1).

    Returns:
        In [0, 1]; 1 where nothing is accepted.
    """
    from scipy.special import bdtr

    if not accepted:
        return 1.0
    if share >= 1.0:
        return float(bdtr(judged_wrong + drawn_wrong, accepted, error))
    weight = (RARE_DRAW_WEIGHT - (RARE_DRAW_WEIGHT - 1) * share) / share
    reached = judged_wrong + weight * drawn_wrong
    drawn = np.arange(min(accepted, int(reached / weight + 1e-9)) + 1)
    edges = np.linspace(0.0, error, SLICES + 1)
    q, p = edges[:-1, None], error - edges[1:, None]
    left = np.minimum(np.floor(reached - weight * drawn + 1e-9), accepted - drawn)
    among_others = bdtr(left, accepted - drawn, p / (1 - share * q))
    chance: NDArray[np.float64] = (_binomial(drawn, accepted, share * q) * among_others).sum(axis=1)
    return float(min(1.0, chance.max()))


def two_stage_upper(
    judged_wrong: int, drawn_wrong: int, accepted: int, share: float, allowance: float
) -> float:
    """Upper bound on the error among what is accepted, too low with probability at most `allowance`.

    The largest rate that `two_stage_p_value` does not refute, rounded up by half a percent of itself; at a share of
    1 it is Clopper and Pearson's.

    Args:
        judged_wrong: errors among the rows of the first kind.
        drawn_wrong: errors among those drawn of the second kind.
        accepted: all rows of both kinds.
        share: probability of being drawn, in (0, 1].
        allowance: error probability of the bound, in [0, 1); at 0 nothing is proved.
    """
    if share >= 1.0 or not accepted or allowance <= 0:
        return float(clopper_pearson_upper(judged_wrong + drawn_wrong, accepted, allowance))
    low = judged_wrong / accepted  # half of all samples show no more than this at this very rate
    high = max(2 * low, 3 / accepted)
    while high < 1 and two_stage_p_value(judged_wrong, drawn_wrong, accepted, share, high) > allowance:
        low, high = high, 2 * high
    high = min(high, 1.0)
    while high - low > max(1e-4, 0.005 * low):
        middle = (low + high) / 2
        refuted = two_stage_p_value(judged_wrong, drawn_wrong, accepted, share, middle) <= allowance
        low, high = (low, middle) if refuted else (middle, high)
    return high


def _binomial(count: NDArray[np.int_], trials: int, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import gammaln, xlog1py, xlogy

    ways = gammaln(trials + 1) - gammaln(count + 1) - gammaln(trials - count + 1)
    return np.exp(ways + xlogy(count, chance) + xlog1py(trials - count, -chance))
