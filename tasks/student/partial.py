"""Answers that stop at a sure level: how deep an item is answered whose deepest level is not sure enough.

Knows scores, confidences and depths as arrays; whether a project allows such answers, and what becomes of them, is
decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.thresholds import ThresholdPath, accepts

NEVER = 2.0
"""A threshold that no score reaches."""


@dataclass(frozen=True, eq=False)
class PartialAnswers:
    """Judged answers that may stop early: which are given at a point of the path, and which of those are wrong.

    Attributes:
        path: with its `upper` thresholds.
        scores: [n, levels] of a calibration sample.
        depths: int [n], at how many levels each answer's path has names.
        wrong: bool [n, levels], whether the answer is wrong at that level or above.
        never: bool [n], items that are never answered.
    """

    path: ThresholdPath
    scores: NDArray[np.floating]
    depths: NDArray[np.integer]
    wrong: NDArray[np.bool_]
    never: NDArray[np.bool_]

    def __call__(self, point: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """bool [n] whether anything is stated at that point, and bool [n] whether any level that is stated is wrong."""
        upper = None if self.path.upper is None else self.path.upper[point]
        stated = stated_depths(self.scores, self.depths, self.path.thresholds[point], upper, self.never)
        wrong = self.wrong[np.arange(len(stated)), np.maximum(stated, 1) - 1]
        return stated > 0, wrong & (stated > 0)


def upper_thresholds(
    path: ThresholdPath,
    scores: NDArray[np.floating],
    confidences: NDArray[np.floating],
    depths: NDArray[np.integer],
    never: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """From which score on an answer may stop at an upper level, for each point of the path: float64 [m, levels - 1].

    At each point those that stop there are expected to be wrong as often as those answered in full, by the student's
    own calibrated confidences: so the share of mistakes stays as it is, and more items are answered. No label is looked
    at. No column rises, so that what one point answers every later one answers at least as deep; `NEVER` where none may
    stop.

    Args:
        path: of thresholds for full answers, laid on the same rows.
        scores: [n, levels] out of fold.
        confidences: [n, levels] of the same answers.
        depths: int [n], see `PartialAnswers`.
        never: bool [n], rows that are never answered.
    """
    levels = scores.shape[1]
    found = np.full((len(path.thresholds), levels - 1), NEVER)
    orders = [np.argsort(-scores[:, depth], kind="stable") for depth in range(levels - 1)]
    mistaken = 1 - np.asarray(confidences, np.float64)
    for point, row in enumerate(path.thresholds):
        full = accepts(scores, row, never)
        if not full.any():
            continue
        allowed, waiting = mistaken[full, -1].mean(), ~full & ~never
        for depth in reversed(range(levels - 1)):
            among = orders[depth][(waiting & (depths > depth + 1))[orders[depth]]]
            share = np.cumsum(mistaken[among, depth]) / np.arange(1, len(among) + 1)
            fitting = np.flatnonzero(share <= allowed)
            if len(fitting):
                found[point, depth] = scores[among[fitting[-1]], depth]
                waiting = waiting & ~((scores[:, depth] >= found[point, depth]) & (depths > depth + 1))
    return np.minimum.accumulate(found, axis=0)


def stated_depths(
    scores: NDArray[np.floating],
    depths: NDArray[np.integer],
    thresholds: NDArray[np.float64] | tuple[float, ...] | None,
    upper: NDArray[np.float64] | tuple[float, ...] | None,
    never: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """At how many levels each item is answered: all of its path, fewer, or 0 for not at all.

    Args:
        scores: [n, levels].
        depths: int [n], see `PartialAnswers`.
        thresholds: one a level, of full answers; None answers nothing.
        upper: one a level but the last, from which on an answer may stop there; None allows no partial answer.
        never: bool [n], items that are not answered whatever their score.
    """
    full = accepts(scores, thresholds, never)
    stated = np.where(full, depths, 0).astype(np.int64)
    if thresholds is None or upper is None or not len(upper):
        return stated
    cleared = np.asarray(scores[:, :-1], np.float64) >= np.asarray(upper, np.float64)
    unfinished = np.arange(1, len(upper) + 1) < np.asarray(depths)[:, None]
    deepest = np.where(cleared & unfinished, np.arange(1, len(upper) + 1), 0).max(axis=1)
    may = ~full if never is None else ~full & ~never
    return np.where(may, deepest, stated)
