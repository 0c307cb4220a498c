"""Thresholds with a certificate: P(student wrong | student answers) <= target, with stated confidence.

Knows confidences and whether they were right. Whose judgement "right" is, and where the sample came from, is the
caller's to decide and to record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.intervals import clopper_pearson_upper
from tasks.student.starting_points import likeliest, rows_needed
from tasks.student.weighted_bounds import TwoStage

GRID = tuple(float(q) for q in np.round(np.arange(0.02, 1.0001, 0.01), 2))
"""Aimed coverages, strict to loose. A fine grid costs nothing: fixed-sequence testing pays for starts, not steps."""

UPPER_QUANTILE = 0.01
"""An upper level refuses at most about this share of what the deepest level would have accepted."""

STARTS = 1
"""Starts beyond the likeliest one insure against confidences that mislead, and cost coverage where they do not."""


@dataclass(frozen=True, eq=False)
class ThresholdPath:
    """The nested operating points that will be tested, and where testing starts.

    Attributes:
        coverages: float64 [m], the share each point was aimed at in training, strict to loose.
        thresholds: float64 [m, levels], non-increasing down each column, so that what one point accepts every later
            one accepts too.
        starts: int [k], indices into the points, increasing; each brings an equal part of the allowance. The first is
            moved to the likeliest point where `expected_errors` are known.
        upper: float64 [m, levels - 1], from which on an answer may stop there, see `partial.upper_thresholds`; None
            where no such thresholds were laid.
        expected_errors: float64 [m], the error among the accepted as the confidences in training have it; None of a
            path of before that was kept.
    """

    coverages: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    starts: NDArray[np.int64]
    upper: NDArray[np.float64] | None = None
    expected_errors: NDArray[np.float64] | None = None

    def starts_for(self, items: int, allowance: float) -> NDArray[np.int64]:
        """Where testing starts on a sample of so many items: int [up to k], increasing; nothing in it is looked at.

        Args:
            items: the sample's size.
            allowance: error probability of each start.
        """
        if self.expected_errors is None:
            return self.starts
        first = likeliest(self.coverages, self.expected_errors, items, allowance)
        return np.unique([first, *self.starts[1:]])


@dataclass(frozen=True)
class OperatingPoint:
    """One point of the path on the calibration sample.

    Attributes:
        q: coverage aimed at in training.
        thresholds: one a level.
        coverage: share of the calibration sample accepted.
        accepted: how many that is.
        errors: how many of them were wrong; of a two-stage sample the weighted estimate, rounded.
        bound: upper confidence bound on the error among the accepted, at `allowance`.
        allowance: error probability the bound may spend: what its turn in the sequence brought, or one start's
            part where the sequence did not reach it (then the bound is for display only).
        certified: whether the sequence reached the point and the bound kept the target.
        partial: how many of the accepted are answered at upper levels only.
    """

    q: float
    thresholds: tuple[float, ...]
    coverage: float
    accepted: int
    errors: int
    bound: float
    allowance: float
    certified: bool
    partial: int = 0


@dataclass(frozen=True)
class Certificate:
    """What may be promised, and the curve it was read from.

    Attributes:
        thresholds: one a level; None where nothing can be certified.
        certified_coverage: share of the calibration sample accepted in full at them; 0 where there are none.
        accepted: calibration items accepted.
        errors: of them, wrong.
        upper_bound: upper bound on the error among the accepted; 1 where nothing is certified.
        calibration_items: size of the sample.
        target_error: the promise.
        confidence: probability with which it holds, over the draw of the sample.
        more_rows_needed: an estimate of how many more judged rows would certify something; 0 where something is
            certified, None where more rows would not help.
        curve: every point, strict to loose.
        partial_coverage: share of the calibration sample accepted at upper levels only.
        partial_thresholds: one a level but the last, from which on an answer may stop there; None where none may.
    """

    thresholds: tuple[float, ...] | None
    certified_coverage: float
    accepted: int
    errors: int
    upper_bound: float
    calibration_items: int
    target_error: float
    confidence: float
    more_rows_needed: int | None
    curve: tuple[OperatingPoint, ...]
    partial_coverage: float = 0.0
    partial_thresholds: tuple[float, ...] | None = None

    @property
    def sentence(self) -> str:
        """The result in plain words."""
        promise = f"at most {self.target_error:.1%} errors with {self.confidence:.0%} confidence"
        if self.thresholds is not None:
            stopping = (
                f" and {self.partial_coverage:.1%} down to an upper level" if self.partial_thresholds else ""
            )
            return (
                f"The student may answer {self.certified_coverage:.1%} of the items{stopping}: {self.errors} of "
                f"{self.accepted} accepted were wrong, which proves {promise}."
            )
        if self.more_rows_needed is None:
            return (
                f"Nothing can be certified: even among the surest of {self.calibration_items} items the student "
                f"errs too often for {promise}; better labels or a higher target error are needed, not more rows."
            )
        return (
            f"Nothing can be certified on {self.calibration_items} items: about {self.more_rows_needed} more "
            f"adjudicated items are needed for {promise}."
        )


def fix_path(
    confidences: NDArray[np.floating],
    never: NDArray[np.bool_] | None = None,
    *,
    starts: int = STARTS,
    mistaken: NDArray[np.floating] | None = None,
    grid: tuple[float, ...] = GRID,
) -> ThresholdPath:
    """Lay the path from out-of-fold confidences of the training rows; no calibration item may be among them.

    At coverage q the deepest level's threshold is the quantile that lets the share q of the acceptable rows pass;
    an upper level's is the low quantile (`UPPER_QUANTILE`) of its confidence among those. The last point accepts
    everything that may be accepted. Labels are not looked at: the teacher's errors cannot bend the path.

    Args:
        confidences: [n, levels], the decoded answer's confidence at each level, first level first.
        never: [n], rows that are never accepted whatever their confidence (those predicted "other").
        starts: number of starting points k, at least 1, spread evenly over the coverages; the first goes where a test
            is likeliest to pass, by the errors that are expected.
        mistaken: [n], the probability of each row's answer to be wrong, by the student itself; None takes what its
            deepest confidence lacks to 1.
        grid: aimed coverages in (0, 1], increasing.

    Raises:
        TrainingError: no acceptable row, a confidence that is not a number, fewer than one start.
    """
    mistaken = 1 - confidences[:, -1] if mistaken is None else mistaken
    if never is not None:
        confidences, mistaken = confidences[~never], mistaken[~never]
    eligible = np.asarray(confidences, np.float64)
    if not len(eligible) or not np.isfinite(eligible).all() or not 1 <= starts <= len(grid):
        raise TrainingError(
            f"no threshold path from {len(eligible)} acceptable rows and {starts} starts",
            "train on more labelled items first",
        )
    thresholds = np.zeros((len(grid), eligible.shape[1]))
    deepest = np.sort(eligible[:, -1])[::-1]
    for point, q in enumerate(grid):
        # the q-th best row itself is the threshold: an interpolated one could fall between two equal confidences
        leaf = deepest[max(0, int(np.ceil(q * len(deepest))) - 1)]
        inside = eligible[eligible[:, -1] >= leaf, :-1]
        thresholds[point, -1] = leaf
        thresholds[point, :-1] = np.quantile(inside, UPPER_QUANTILE, axis=0, method="lower")
    thresholds[-1] = np.where(grid[-1] >= 1.0, 0.0, thresholds[-1])
    aimed, thresholds = np.asarray(grid, np.float64), np.minimum.accumulate(thresholds, axis=0)
    spread = np.searchsorted(aimed, (np.arange(starts) + 1) / (starts + 1))
    order = np.argsort(-eligible[:, -1], kind="stable")
    running = np.cumsum(np.asarray(mistaken, np.float64)[order]) / np.arange(1, len(order) + 1)
    reached = np.searchsorted(-eligible[order, -1], -thresholds[:, -1], side="right")
    return ThresholdPath(aimed, thresholds, np.unique(spread), expected_errors=running[reached - 1])


def accepts(
    confidences: NDArray[np.floating],
    thresholds: NDArray[np.float64] | tuple[float, ...] | None,
    never: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Whether the student answers each item: every level clears its threshold.

    Args:
        confidences: [n, levels].
        thresholds: one a level; None accepts nothing.
        never: [n], items that are not accepted whatever their confidence.

    Returns:
        bool [n].
    """
    if thresholds is None:
        return np.zeros(len(confidences), bool)
    # float64 on both sides, so that a threshold read back from JSON decides as the one in memory did
    cleared = np.asarray(confidences, np.float64) >= np.asarray(thresholds, np.float64)
    passed: NDArray[np.bool_] = np.all(cleared, axis=1)
    return passed if never is None else passed & ~never


def certify(
    path: ThresholdPath,
    confidences: NDArray[np.floating],
    wrong: NDArray[np.bool_],
    target_error: float,
    confidence: float = 0.95,
    never: NDArray[np.bool_] | None = None,
    two_stage: TwoStage | None = None,
    stopping: Callable[[int], tuple[NDArray[np.bool_], NDArray[np.bool_]]] | None = None,
) -> Certificate:
    """Find the loosest point of the path whose error can be proved on the calibration sample.

    Points are tested from strict to loose, each by the exact binomial (Clopper-Pearson) bound on its accepted
    items: Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017; Angelopoulos et
    al., "Learn then Test", 2021. Every start brings (1 - confidence) / k; a point that passes hands what it was
    tested at to the next one, one that fails loses it (the fallback procedure: Wiens, Pharmaceutical Statistics 2,
    2003; Wiens & Dmitrienko, J. Biopharm. Stat. 15, 2005). The first start is chosen for the size of the sample and
    for what the confidences in training promise, before anything in the sample is looked at. So the chance of
    certifying any point whose true error is above the target is at most 1 - confidence, and a chain that runs from the
    first start through all of them tests the last points at the whole allowance.

    Args:
        path: fixed before this sample was looked at.
        confidences: [n, levels] of the calibration sample, an unweighted random draw.
        wrong: [n], any stated level wrong.
        target_error: in (0, 1).
        confidence: in (0, 1).
        never: [n], items that are never accepted.
        two_stage: how the rows came to be judged, where not all of them were; then each point is tested by
            `two_stage_p_value`, and what is wrong among rows that were not judged by design is not looked at.
        stopping: where answers may stop at an upper level: of a point, by its place, bool [n] which rows are answered
            at all and bool [n] which of them state something wrong.

    Raises:
        TrainingError: target or confidence outside (0, 1), or another number of levels than the path has.
    """
    if not (0 < target_error < 1 and 0 < confidence < 1):
        raise TrainingError(
            f"target_error {target_error} and confidence {confidence} must lie between 0 and 1",
            "correct the routing section of the project file",
        )
    if confidences.ndim != 2 or confidences.shape != (len(wrong), path.thresholds.shape[1]):
        raise TrainingError(
            f"confidences of shape {confidences.shape} for {len(wrong)} items and a path of "
            f"{path.thresholds.shape[1]} levels",
            "lay the path and certify with the same student",
        )
    items = len(wrong) if two_stage is None else two_stage.worth
    share = (1 - confidence) / len(path.starts)
    starts = path.starts_for(items, share)
    outcomes: list[tuple[int, int, NDArray[np.bool_]]] = []
    for point, row in enumerate(path.thresholds):
        taken, mistaken = accepts(confidences, row, never), wrong
        in_full = int(taken.sum())
        if stopping is not None:
            taken, mistaken = stopping(point)
        outcomes.append((int(taken.sum()), in_full, mistaken & taken))
    if two_stage is None:  # all bounds that a turn could ask for in one call
        counts = np.array([(accepted, mistaken.sum()) for accepted, _, mistaken in outcomes])
        bounds = clopper_pearson_upper(counts[:, 1:], counts[:, :1], share * np.arange(1, len(starts) + 1))
    curve: list[OperatingPoint] = []
    turns = 0
    for point, (accepted, in_full, mistaken) in enumerate(outcomes):
        turns += int(np.isin(point, starts))
        allowance = share * max(1, turns)
        if two_stage is None:
            errors, bound = int(mistaken.sum()), float(bounds[point, max(1, turns) - 1])
            passed = turns > 0 and bound <= target_error
        else:
            errors = round(two_stage.weighted(mistaken))
            passed = turns > 0 and two_stage.p_value(mistaken, accepted, target_error) <= allowance
            bound = two_stage.upper(mistaken, accepted, allowance)
            bound = min(bound, target_error) if passed else bound
        coverage = accepted / len(wrong) if len(wrong) else 0.0
        thresholds, q = tuple(path.thresholds[point].tolist()), float(path.coverages[point])
        partial = accepted - in_full
        curve.append(
            OperatingPoint(q, thresholds, coverage, accepted, errors, bound, allowance, passed, partial)
        )
        turns = turns if passed else 0
    best = max((p for p in curve if p.certified), key=lambda p: p.q, default=None)
    upper = None
    if best is not None and stopping is not None and path.upper is not None:
        upper = tuple(path.upper[curve.index(best)].tolist())
    return Certificate(
        thresholds=None if best is None else best.thresholds,
        certified_coverage=0.0 if best is None else (best.accepted - best.partial) / len(wrong),
        accepted=0 if best is None else best.accepted,
        errors=0 if best is None else best.errors,
        upper_bound=1.0 if best is None else best.bound,
        calibration_items=len(wrong),
        target_error=target_error,
        confidence=confidence,
        more_rows_needed=0
        if best is not None
        else _more_rows(path, curve, len(wrong), target_error, confidence),
        curve=tuple(curve),
        partial_coverage=0.0 if best is None else best.partial / len(wrong),
        partial_thresholds=upper,
    )


def _more_rows(
    path: ThresholdPath, curve: list[OperatingPoint], items: int, target_error: float, confidence: float
) -> int | None:
    """Rows missing for a start to pass, from the errors seen and the errors expected.

    What is expected counts as much as the rows among which the target allows one error.
    """
    expected = np.full(len(curve), target_error / 2) if path.expected_errors is None else path.expected_errors
    accepted, errors = (np.array([getattr(p, name) for p in curve], float) for name in ("accepted", "errors"))
    rates = (errors + np.clip(expected, 0, 1) / target_error) / (accepted + 1 / target_error)
    coverages = (accepted + path.coverages / target_error) / (items + 1 / target_error)
    share = (1 - confidence) / len(path.starts)
    wanted = rows_needed(
        lambda size: path.starts_for(size, share), coverages, rates, items, target_error, share
    )
    return None if wanted is None else wanted - items


@dataclass(frozen=True)
class EscalationRow:
    """What one threshold on the deepest level's confidence would mean.

    Attributes:
        threshold: in [0, 1].
        escalated: share of items below it.
        accuracy: of the answered; nan where none is.
        answered: how many items reach it.
    """

    threshold: float
    escalated: float
    accuracy: float
    answered: int


def escalation_table(
    confidence: NDArray[np.floating],
    wrong: NDArray[np.bool_],
    grid: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99),
) -> list[EscalationRow]:
    """For each threshold: what it escalates, and how right the rest is. Descriptive: nothing here is certified.

    Args:
        confidence: [n], of the deepest level.
        wrong: [n].
        grid: thresholds in [0, 1].
    """
    rows = []
    for threshold in grid:
        answered = np.asarray(confidence, np.float64) >= threshold
        count = int(answered.sum())
        accuracy = float(1 - wrong[answered].mean()) if count else float("nan")
        rows.append(EscalationRow(threshold, 1 - count / max(1, len(wrong)), accuracy, count))
    return rows
